import io
import os
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from pipeline.config import ClipConfig
from pipeline.media.decode import decode_clip, read_frames
from pipeline.media.encode import encode_clip


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.integers(0, 255, (224 * 40, 224, 3)).astype(np.uint8), (0, 0), 3).reshape(
        40, 224, 224, 3
    )


def test_the_same_frames_give_the_same_bytes(noise):
    """A clock, a random id or a race between threads in the file would make every retry a new shard."""
    assert encode_clip(noise, 30000 / 1001, ClipConfig()) == encode_clip(noise.copy(), 30000 / 1001, ClipConfig())


ENCODE = """
import hashlib, sys
import numpy as np
from pipeline.config import ClipConfig
from pipeline.media.encode import encode_clip
frames = np.load(sys.argv[1])
print(hashlib.sha256(encode_clip(frames, 25.0, ClipConfig())).hexdigest())
"""


def test_bytes_do_not_depend_on_what_lay_in_memory(tmp_path):
    """x264's lookahead reads memory that it never wrote: with it, one retry in some dozens was another shard."""
    square = np.random.default_rng(0).integers(0, 80, (224, 224, 3)).astype(np.uint8)
    frames = np.stack([square] * 37)
    for number, frame in enumerate(frames):
        frame[60:160, 20 + number : 120 + number] = (250, 40, 200)
    np.save(tmp_path / "frames.npy", cv2.GaussianBlur(frames.reshape(-1, 224, 3), (0, 0), 2).reshape(frames.shape))
    digests = {
        subprocess.run(
            [sys.executable, "-c", ENCODE, str(tmp_path / "frames.npy")],
            env={**os.environ, "MALLOC_PERTURB_": filling}, capture_output=True, text=True, check=True,
        ).stdout
        for filling in ("0", "1", "254")
    }  # fmt: skip
    assert len(digests) == 1


def test_settings_change_the_bytes(noise):
    assert encode_clip(noise, 25, ClipConfig()) != encode_clip(noise, 25, ClipConfig(crf=30))


def test_key_frames_and_b_frames_stand_where_the_config_says(noise):
    jumping = noise.copy()
    jumping[11:] = 255 - jumping[11:]  # a scene cut must not move them
    with av.open(io.BytesIO(encode_clip(jumping, 25, ClipConfig(key_frame_interval=16)))) as file:
        frames = list(file.decode(video=0))
    assert [n for n, frame in enumerate(frames) if frame.key_frame] == [0, 16, 32]
    b_frames = [n for n, frame in enumerate(frames) if frame.pict_type == av.video.frame.PictureType.B]
    assert b_frames[:9] == [1, 2, 3, 5, 6, 7, 9, 10, 11]


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25), Fraction(60)])
def test_usual_frame_rates_are_stored_exactly(noise, rate):
    with av.open(io.BytesIO(encode_clip(noise[:20], float(rate), ClipConfig()))) as file:
        assert file.streams.video[0].average_rate == rate


def test_a_clip_of_one_frame_survives(noise):
    assert psnr(decode_clip(encode_clip(noise[:1], 25, ClipConfig())), noise[:1]) > 30


def test_real_faces_keep_38_db(sample_videos):
    frames = read_frames(str(sample_videos / "single_face.mp4"), range(0, 64))
    crops = np.stack([cv2.resize(frame[60:340, 150:430], (224, 224), interpolation=cv2.INTER_AREA) for frame in frames])
    mp4 = encode_clip(crops, 30, ClipConfig())
    assert psnr(decode_clip(mp4), crops) > 38
    assert len(mp4) < 120_000


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        encode_clip(np.zeros((4, 64, 64, 3), np.float32), 25, ClipConfig())
    with pytest.raises(ValueError, match="F ≥ 1"):
        encode_clip(np.zeros((0, 64, 64, 3), np.uint8), 25, ClipConfig())

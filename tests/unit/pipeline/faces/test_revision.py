"""What comes out of one video, with the revision of the code that made it: keys are only as true as that number."""

import io
import json
import os
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config import ClipConfig, IngestConfig, TrackConfig
from pipeline.extract_clips import ClipExtractor
from pipeline.media.decode import decode_clip
from pipeline.media.stream import open_media
from pipeline.recipe import REVISION

GOLDEN = Path(__file__).parent / "golden" / "clips.json"
WRITE = "MARLIN_WRITE_GOLDEN"
TOLERANCES = {"boxes": 0.03, "colours": 3.0, "quality": 1.0}
"""Pixels, grey levels, units: what processors differ in is less. All other values are equal."""


def written_video(path: Path, images: np.ndarray) -> Path:
    """Lossless, so that every processor decodes the same; a rate that halves, and sound with two clicks."""
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("ffv1", rate=30)
        pictures.width, pictures.height, pictures.pix_fmt = 200, 120, "yuv420p"
        pictures.time_base = pictures.codec_context.time_base = Fraction(1, 600)
        sound = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        at = 0
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 600)
            at += 20 if number < 60 else 40
            file.mux(pictures.encode(frame))
        file.mux(pictures.encode())
        samples = np.round(500 * np.sin(np.arange(6 * 16_000) / 13)).astype(np.int16)[None]
        samples[0, 8_000:8_160] = samples[0, 64_000:64_160] = 9000
        for start in range(0, samples.shape[1], 1600):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1600].copy(), format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
            file.mux(sound.encode(frame))
        file.mux(sound.encode())
    return path


def summary(clip) -> dict:
    """A clip in numbers that do not depend on the processor."""
    meta, frames_FHWC = clip.meta, decode_clip(clip.mp4)
    with av.open(io.BytesIO(clip.flac)) as file:
        sound = np.concatenate([part.to_ndarray()[0] for part in file.decode(audio=0)])
    with open_media(io.BytesIO(clip.mp4)) as file:
        keys = [n for n, packet in enumerate(p for p in file.demux(video=0) if p.size) if packet.is_keyframe]
    cells = frames_FHWC[:: max(1, len(frames_FHWC) // 3)].reshape(-1, 4, 56, 4, 56, 3).mean(axis=(2, 4))
    options = re.search(rb"options: ([ -~]+)", clip.mp4)
    return {
        "place": [meta.track, meta.start_frame, meta.end_frame, meta.source_width, meta.source_height],
        "fps": round(meta.fps, 3),
        "boxes": np.concatenate([np.array(meta.crops), np.array(meta.landmarks)[:, 2]], axis=1)[::8].tolist(),
        "colours": cells.round(1).tolist(),
        "quality": list(meta.quality.model_dump().values()),
        "sound": [len(sound), int(np.argmax(sound > 4000)) // 16],
        "encoder": [keys, options[1].decode() if options else ""],
    }


def test_output_that_changes_has_another_revision(mark_detector, marked_frames, source, tmp_path):
    """Bug caught: clips of the changed code under the keys of the old one, mixed with its clips in one dataset."""
    images = marked_frames(110, present=lambda n: not 48 <= n < 70, speed=1.2)
    images[70:] = images[70:, ::-1]
    path = written_video(tmp_path / "golden.mkv", images)
    cfg = IngestConfig(track=TrackConfig(min_blur=0), clip=ClipConfig(audio=True, max_frames=32, duplicate_bits=0))
    clips = ClipExtractor(cfg, "0" * 64, mark_detector)(source(path), str(path), "train")
    now = {"revision": REVISION, "clips": [summary(clip) for clip in clips]}
    anew = f"{WRITE}=1 pytest {Path(__file__).name} writes {GOLDEN.name} anew"
    if os.environ.get(WRITE):
        GOLDEN.write_text(json.dumps(now) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert golden["revision"] == REVISION, f"REVISION is {REVISION} and {GOLDEN.name} of {golden['revision']}: {anew}"
    changed = f"equal settings now give other clips: raise REVISION in pipeline/recipe.py, then {anew}"
    assert len(now["clips"]) == len(golden["clips"]) > 2, changed
    for clip, before in zip(now["clips"], golden["clips"], strict=True):
        for name, value in before.items():
            expected = pytest.approx(np.array(value), abs=TOLERANCES[name]) if name in TOLERANCES else value
            assert (np.array(clip[name]) if name in TOLERANCES else clip[name]) == expected, f"{name}: {changed}"

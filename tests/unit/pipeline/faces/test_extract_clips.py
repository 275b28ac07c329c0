import io
import pickle
import tracemalloc
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from infra.fetch import file_digest
from pipeline.config import ClipConfig, IngestConfig, LimitConfig, TrackConfig
from pipeline.extract_clips import ClipExtractor
from pipeline.faces.backend import build_parser
from pipeline.faces.regions import Region
from pipeline.media.decode import decode_clip
from pipeline.media.encode import encode_clip
from pipeline.parse_regions import landmarks_in_crop, parse_clip
from pipeline.rejects import RejectError
from pipeline.rows import Cut, RejectReason, SourceVideo

RECIPE = "0123abcd" * 8
CFG = IngestConfig()


def run(extractor, source, path, split="train"):
    return list(extractor(source(path), str(path), split))


@pytest.fixture(scope="module")
def extractor():
    return ClipExtractor(CFG, RECIPE)


@pytest.fixture
def write(tmp_path):
    def write_video(name, frames):
        path = tmp_path / name
        path.write_bytes(encode_clip(frames, 25, ClipConfig(crf=5)))
        return path

    return write_video


@pytest.fixture
def marks(mark_detector):
    """An extractor with the exact detector on every fourth frame; flat marks have no texture: no judging of blur."""

    def make(**limits):
        cfg = IngestConfig(track=TrackConfig(min_blur=0, key_frame_stride=4), limits=LimitConfig(**limits))
        return ClipExtractor(cfg, RECIPE, mark_detector)

    return make


@pytest.fixture(scope="module")
def real(extractor, sample_videos):
    """The clips of one real video, and their outcome."""
    path = sample_videos / "single_face.mp4"
    video = SourceVideo(file_digest(path), str(path), path.name, path.stat().st_size, labels={"label": "real"})
    clips = list(extractor(video, str(path), "val"))
    return clips, extractor.outcome


def test_a_real_face_becomes_clips_with_everything_about_them(real):
    clips, outcome = real
    assert [(clip.meta.start_frame, clip.meta.end_frame) for clip in clips] == [(0, 64), (64, 72)]
    meta = clips[1].meta
    assert meta.key == f"{outcome.video[:16]}-t0000-f0000064-0123abcd"
    assert (meta.source_width, meta.source_height, meta.fps) == (640, 360, 30)
    assert (meta.split, meta.labels) == ("val", {"label": "real"})
    assert (meta.detector, meta.parser) == ("centerface", "landmarks68")
    assert len(meta.crops) == len(meta.landmarks) == meta.frames == 8
    assert decode_clip(clips[1].mp4).shape == (8, 224, 224, 3)
    assert (outcome.decoded, outcome.detected, outcome.tracks, outcome.clips, outcome.reject) == (72, 72, 1, 2, None)
    assert outcome.faces == 6
    assert {"probe", "decode", "detect", "track", "crop", "encode"} <= outcome.seconds.keys()


def test_each_clip_carries_the_sound_of_its_own_frames(real, sample_videos, tmp_path):
    """Bug caught: sound of the whole video, or of another clip's span, beside a clip; pictures that change with it."""
    path = tmp_path / "sounding.mkv"
    click_s = 2.2
    with av.open(str(sample_videos / "single_face.mp4")) as mute, av.open(str(path), "w") as file:
        pictures = file.add_stream_from_template(mute.streams.video[0])
        sound = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for packet in mute.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                file.mux(packet)
        samples = np.zeros((1, 3 * 16_000), np.int16)
        samples[0, 1600:1760] = samples[0, int(click_s * 16_000) :][:160] = 9000  # one in each clip
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = 16_000
        file.mux(sound.encode(frame))
        file.mux(sound.encode())
    cfg = CFG.model_copy(update={"clip": ClipConfig(audio=True)})
    video = SourceVideo(file_digest(path), str(path), path.name, path.stat().st_size, labels={})
    clips = list(ClipExtractor(cfg, RECIPE)(video, str(path), "val"))
    assert [clip.meta.audio for clip in clips] == [True, True]
    for clip, rise_s in zip(clips, (0.1, click_s - 64 / 30), strict=True):
        with av.open(io.BytesIO(clip.flac)) as file:
            heard = np.concatenate([part.to_ndarray()[0] for part in file.decode(audio=0)])
        assert len(heard) == pytest.approx(16_000 * clip.meta.frames / 30, abs=16)  # Matroska's ms
        assert np.flatnonzero(heard > 4000)[0] / 16_000 == pytest.approx(rise_s, abs=0.002)
    assert [clip.mp4 for clip in clips] == [clip.mp4 for clip in real[0]]


@pytest.mark.parametrize("hold", [0, 1024])
@pytest.mark.parametrize("cut", [None, Cut(1.0)])
def test_the_sound_of_a_video_whose_rate_varies_is_that_of_its_pictures(
    mark_detector, marked_frames, source, tmp_path, hold, cut
):
    """Bug caught: seconds counted by the mean rate: the sound of 3.9 s beside the picture of 2 s; or twice the cut."""
    path, click_s = tmp_path / "varying.mkv", 5.0
    times = [n / 30 for n in range(60)] + [2 + n / 10 for n in range(60)]
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("ffv1", rate=30)
        pictures.width, pictures.height, pictures.pix_fmt = 200, 120, "bgr0"
        pictures.time_base = pictures.codec_context.time_base = Fraction(1, 600)
        sound = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for seconds, image in zip(times, marked_frames(120), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(seconds * 600), Fraction(1, 600)
            file.mux(pictures.encode(frame))
        file.mux(pictures.encode())
        samples = np.zeros((1, 9 * 16_000), np.int16)
        samples[0, round(click_s * 16_000) :][:160] = 9000
        for start in range(0, samples.shape[1], 1600):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1600].copy(), format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
            file.mux(sound.encode(frame))
        file.mux(sound.encode())
    cfg = IngestConfig(
        track=TrackConfig(min_blur=0, key_frame_stride=4),
        clip=ClipConfig(audio=True, max_frames=32, duplicate_bits=0),
        limits=LimitConfig(hold_mb=hold),
    )
    clips = run(ClipExtractor(cfg, RECIPE, mark_detector), lambda p: replace(source(p), cut=cut), path)
    shown = [seconds for seconds in times if seconds >= (cut.start_s if cut else 0)]
    (clip,) = [clip for clip in clips if clip.flac]
    first, behind = shown[clip.meta.start_frame], [*shown, 8.0][clip.meta.end_frame]
    assert first <= click_s < behind
    with av.open(io.BytesIO(clip.flac)) as file:
        heard = np.concatenate([part.to_ndarray()[0] for part in file.decode(audio=0)])
    assert len(heard) / 16_000 == pytest.approx(behind - first, abs=0.001)
    assert np.flatnonzero(heard > 4000)[0] / 16_000 == pytest.approx(click_s - first, abs=0.002)


def test_clips_of_a_damaged_video_say_so(marks, marked_frames, source, write):
    """Bug caught: half a video that reads like a whole one in the table."""
    path = write("moving.mp4", marked_frames(90))
    extractor = marks()
    run(extractor, source, path)
    assert extractor.outcome.detail is None
    with av.open(str(path)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][-2]
    data = bytearray(path.read_bytes())
    data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    assert run(extractor, source, path)
    decoded = extractor.outcome.decoded
    assert 60 < decoded < 90
    assert extractor.outcome.detail == f"damaged: {decoded} of 90 stated frames were decoded"
    assert extractor.outcome.reject is None


@pytest.mark.parametrize("hold", [0, 1024])
def test_no_clip_and_no_sound_runs_over_a_loss(mark_detector, marked_frames, source, tmp_path, hold):
    """Bug caught: a clip whose face keeps still while 28 frames are lost, and a sound that is longer by these."""
    path, lost = tmp_path / "damaged.mov", 32
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("libx264", rate=30, options={"x264-params": "keyint=60:bframes=0:scenecut=0:crf=5"})
        pictures.width, pictures.height, pictures.pix_fmt = 200, 120, "yuv420p"
        sound = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for image in marked_frames(120, speed=0):
            file.mux(pictures.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(pictures.encode())
        samples = np.round(9000 * np.sin(np.arange(4 * 16_000) / 13)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = 16_000
        file.mux(sound.encode(frame))
        file.mux(sound.encode())
    with av.open(str(path)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][lost]
    data = bytearray(path.read_bytes())
    data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    cfg = IngestConfig(
        track=TrackConfig(min_blur=0),
        clip=ClipConfig(audio=True, duplicate_bits=0),
        limits=LimitConfig(hold_mb=hold, chunk_frames=lost),
    )
    clips = run(ClipExtractor(cfg, RECIPE, mark_detector), source, path)
    assert [(c.meta.track, c.meta.start_frame, c.meta.end_frame) for c in clips] == [(0, 0, 32), (1, 32, 92)]
    for clip in clips:
        with av.open(io.BytesIO(clip.flac)) as file:
            heard = sum(part.samples for part in file.decode(audio=0))
        assert heard / 16_000 == pytest.approx(clip.meta.frames / 30, abs=1e-3)


def test_the_region_maps_of_a_real_clip_show_a_face(real):
    clip = real[0][0]
    bits = parse_clip(clip.mp4, clip.meta, build_parser(CFG.faces))
    assert bits.shape == (16, 28, 28)
    assert bits.dtype == np.uint16
    for row in bits:
        eye = np.argwhere(row >> Region.RIGHT_EYE & 1).mean(axis=0)
        mouth = np.argwhere(row >> Region.LOWER_LIP & 1).mean(axis=0)
        assert eye[0] < 14 < mouth[0]
        assert eye[1] < 14


def test_each_map_is_parsed_with_the_landmarks_of_its_own_frame(real):
    """Region maps shifted against the frames by one would still look like a face."""
    asked = {}

    class Recorder:
        name = "recorder"

        def parse(self, crops, landmarks):
            asked.update(crops=crops, landmarks=landmarks)
            return np.zeros(crops.shape[:3], np.uint8)

    clip = real[0][0]
    frames = clip.meta.frames
    moving = clip.meta.model_copy(
        update={
            "landmarks": [[(10.0 + n, 20.0)] * 5 for n in range(frames)],
            "crops": [(float(-n), 0.0, 112.0 - n, 112.0) for n in range(frames)],
        }
    )
    assert parse_clip(clip.mp4, moving, Recorder()).shape == (16, 28, 28)
    np.testing.assert_array_equal(asked["landmarks"][:, 0], [(2 * (10 + 2 * n), 40) for n in range(0, 64, 4)])
    np.testing.assert_array_equal(asked["crops"], decode_clip(clip.mp4)[::4])


def test_a_face_that_leaves_and_one_that_comes(extractor, source, sample_videos):
    (leaves, *_), (comes, *_) = (
        run(extractor, source, sample_videos / name) for name in ("face_noface.mov", "noface_face.mov")
    )
    assert leaves.meta.start_frame == 0
    assert comes.meta.start_frame == pytest.approx(96, abs=2)
    assert extractor.outcome.detected == pytest.approx(72, abs=4)
    assert extractor.outcome.decoded == 169


def test_no_face_is_a_reject_that_keeps_its_counts(extractor, source, sample_videos):
    with pytest.raises(RejectError) as caught:
        run(extractor, source, sample_videos / "no_face.mp4")
    assert caught.value.reason is RejectReason.NO_FACE
    outcome = extractor.outcome
    assert (outcome.reject, outcome.decoded, outcome.clips) == (RejectReason.NO_FACE, 95, 0)
    assert outcome.seconds["detect"] > 0


def test_a_cropped_frame_shows_the_face_of_that_frame(marks, marked_frames, source, write):
    """Off by one between detection, path and pixels would move the mark in the crop, since it moves in the frame."""
    (clip, *_) = run(marks(), source, write("moving.mp4", marked_frames(50, speed=2)))
    crops = decode_clip(clip.mp4)
    is_mark = np.abs(crops.astype(int) - (250, 40, 200)).max(axis=3) < 80
    for mask, five, square in zip(is_mark, clip.meta.landmarks, clip.meta.crops, strict=True):
        rows, columns = np.nonzero(mask)
        side = 224 / 1.3
        assert np.ptp(columns) == pytest.approx(side, abs=6)
        assert columns.mean() == pytest.approx(112, abs=4)
        (centre,) = landmarks_in_crop(np.array([five]), np.array([square]), 224)
        assert centre[0] == pytest.approx([columns.mean(), rows.mean()], abs=3)


@pytest.mark.parametrize("hold", [0, 1024])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_and_passes_do_not_change_a_byte(marks, marked_frames, source, write, chunk, hold):
    path = write("moving.mp4", marked_frames(70, present=lambda n: n < 40 or n > 60))
    expected = run(marks(), source, path)
    got = run(marks(chunk_frames=chunk, hold_mb=hold), source, path)
    assert [clip.meta for clip in got] == [clip.meta for clip in expected]
    assert [clip.mp4 for clip in got] == [clip.mp4 for clip in expected]


def test_two_appearances_are_two_tracks(marks, marked_frames, source, write):
    extractor = marks()
    clips = run(extractor, source, write("twice.mp4", marked_frames(90, present=lambda n: n < 30 or n >= 60)))
    assert [(c.meta.track, c.meta.start_frame, c.meta.end_frame) for c in clips] == [(0, 0, 29), (1, 60, 90)]
    assert extractor.outcome.detected == 59


def test_a_passing_detection_is_no_track_and_says_why(marks, marked_frames, source, write):
    extractor = marks()
    with pytest.raises(RejectError, match="1 too_short"):
        run(extractor, source, write("flash.mp4", marked_frames(40, present=lambda n: 8 <= n < 12)))
    assert extractor.outcome.reject is RejectReason.NO_TRACK
    assert extractor.outcome.filtered == {"too_short": 1}


def test_one_extractor_takes_video_after_video(marks, marked_frames, source, write, tmp_path):
    """State left by one video, a reject above all, must not show in the next."""
    extractor = marks()
    good = write("good.mp4", marked_frames(20))
    first = run(extractor, source, good)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(RejectError):
        run(extractor, source, empty)
    assert extractor.outcome.reject is RejectReason.EMPTY
    assert run(extractor, source, good) == first
    assert extractor.outcome.reject is None


def test_a_video_of_one_frame_is_no_track(marks, marked_frames, source, write):
    with pytest.raises(RejectError) as caught:
        run(marks(), source, write("one.mp4", marked_frames(1)))
    assert caught.value.reason is RejectReason.NO_TRACK


def test_memory_does_not_grow_with_the_video(mark_detector, marked_frames, source, tmp_path):
    """Bug caught: frames, crops or clips that pile up. With nothing held, 600 frames take what 150 do."""
    cfg = IngestConfig(
        track=TrackConfig(min_blur=0),
        clip=ClipConfig(max_frames=32, duplicate_bits=0),
        limits=LimitConfig(chunk_frames=8, hold_mb=0),
    )
    frame, extractor = marked_frames(1)[0], ClipExtractor(cfg, RECIPE, mark_detector)
    peaks = {}
    for length in (150, 600):
        path = tmp_path / f"{length}.mp4"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 200, 120, "yuv420p"
            for _ in range(length):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())
        listed = source(path)
        tracemalloc.start()
        clips = sum(1 for _ in extractor(listed, str(path), "train"))
        _, peaks[length] = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert clips == -(-length // 32)
    assert peaks[600] < peaks[150] + 10 * frame.nbytes  # boxes and landmarks by frame, no pixels
    assert peaks[600] < 4 * 32 * 224 * 224 * 3  # a clip's crops, twice for the encoder, and the chunk


def test_a_frozen_picture_gives_one_clip_and_counts_its_copies(marks, marked_frames, source, write):
    """Bug caught: a still picture as hours of clips; copies that vanish from the counts; a cut clip number."""
    extractor = marks()
    clips = run(extractor, source, write("frozen.mp4", marked_frames(200, speed=0)))
    assert len(clips) + extractor.outcome.duplicates == 4
    assert (extractor.outcome.clips, extractor.outcome.duplicates) == (len(clips), 4 - len(clips))
    assert len(clips) == 1


def test_a_reject_crosses_between_processes():
    error = pickle.loads(pickle.dumps(RejectError(RejectReason.TOO_LARGE, "8K")))
    assert (error.reason, error.detail, str(error)) == (RejectReason.TOO_LARGE, "8K", "too_large: 8K")


def test_landmarks_are_mapped_into_the_crop():
    mapped = landmarks_in_crop(np.array([[[60.0, 45.0]] * 5]), np.array([[10.0, 20.0, 110.0, 120.0]]), 224)
    np.testing.assert_allclose(mapped[0, 0], [112, 56])

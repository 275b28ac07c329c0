"""Bytes, PSNR and decode time of stored clips, together, on real crops: ``python -m benchmarks.codec > table``.

The loader pays the decode on every epoch: it is measured as 16 frames at stride 2 from a random place. A clip of 64
frames may take 40 kB with its region maps (1.6 kB) at 38 dB or more. Seconds are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.ingest_speed import SHARED, ingest_config, our_tracks
from pipeline.config import ClipConfig
from pipeline.faces.crop import crop_square
from pipeline.media.decode import decode_clip, read_frames
from pipeline.media.encode import encode_clip

FRAMES, EVERY = 64, 128
Encode = Callable[[np.ndarray], bytes]
Decode = Callable[[bytes, list[int]], np.ndarray]


def main() -> None:
    """Print one line a candidate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, nargs="+", default=[SHARED / "videos"])
    parser.add_argument("--weights", type=Path, default=SHARED / "weights")
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    clips = list(_clips([path for folder in chosen.videos for path in sorted(folder.rglob("*.mp4"))], chosen.weights))
    print(f"{len(clips)} clips of {FRAMES} frames; {os.cpu_count()} cores, one thread\n")
    print("| candidate | kB a clip | largest | PSNR RGB, dB | luma, dB | encode, ms a frame | decode a window, ms |")
    print("|---|---|---|---|---|---|---|")
    for name, encode, decode in _candidates():
        _measure(name, encode, decode, clips)


def _clips(videos: list[Path], weights: Path) -> Iterator[np.ndarray]:
    cfg = ingest_config(weights)
    for video in videos:
        for track in our_tracks(video, cfg):
            for start in range(track.start, track.end - FRAMES + 1, EVERY):
                frames = read_frames(str(video), range(start, start + FRAMES))
                squares = track.crops_F4[start - track.start :]
                pairs = zip(frames, squares, strict=False)
                yield np.stack([crop_square(frame, square, cfg.clip.size) for frame, square in pairs])


def _candidates() -> Iterator[tuple[str, Encode, Decode]]:
    chosen = ClipConfig()
    changes: list[dict] = [
        {},
        {"crf": 22.0},
        {"crf": 25.0},
        {"preset": "veryfast"},
        {"preset": "fast"},
        {"preset": "slow"},
        {"b_frames": 0},
        {"key_frame_interval": 16},
        {"key_frame_interval": 32},
    ]
    for change in changes:
        cfg = chosen.model_copy(update=change)
        said = ", ".join(f"{name} {value}" for name, value in change.items()) or "**as configured**"
        yield f"H.264 {said}", lambda clip, cfg=cfg: encode_clip(clip, 25.0, cfg), decode_clip  # type: ignore[misc]
    hevc = "keyint=64:min-keyint=64:scenecut=0:bframes=0:pools=none:frame-threads=1:log-level=error"
    for crf in (23, 26):
        options = {"crf": str(crf), "preset": "veryfast", "tune": "psnr", "x265-params": hevc}
        yield f"HEVC crf {crf} veryfast", lambda clip, o=options: _video("libx265", clip, o), decode_clip  # type: ignore[misc]
    vp9 = {"crf": "32", "b": "0", "cpu-used": "5", "deadline": "realtime", "g": "64"}
    yield "VP9 crf 32", lambda clip: _video("libvpx-vp9", clip, vp9), decode_clip
    for ending, flag, quality in ((".jpg", cv2.IMWRITE_JPEG_QUALITY, 80), (".webp", cv2.IMWRITE_WEBP_QUALITY, 60)):
        yield (
            f"{ending[1:]} {quality}, frame by frame",
            lambda clip, e=ending, o=(flag, quality): _stills(clip, e, list(o)),  # type: ignore[misc]
            _decode_stills,
        )


def _measure(name: str, encode: Encode, decode: Decode, clips: list[np.ndarray]) -> None:
    sizes, errors, luma, encoding, decoding = [], [], [], [], []
    places = np.random.default_rng(0)
    for clip_FHWC in clips:
        start = time.process_time()
        data = encode(clip_FHWC)
        encoding.append(time.process_time() - start)
        sizes.append(len(data))
        difference = decode(data, list(range(FRAMES))).astype(np.float32) - clip_FHWC
        errors.append(np.mean(difference**2))
        luma.append(np.mean((difference @ np.array([0.299, 0.587, 0.114], np.float32)) ** 2))
        for first in 4 * places.integers(0, 9, 3):
            start = time.process_time()
            decode(data, list(range(first, first + 32, 2)))
            decoding.append(time.process_time() - start)
    print(
        f"| {name} | {np.mean(sizes) / 1e3:.1f} | {max(sizes) / 1e3:.1f} | {_psnr(errors):.2f} | {_psnr(luma):.2f} "
        f"| {1e3 * np.mean(encoding) / FRAMES:.2f} | {1e3 * np.median(decoding):.1f} |",
        flush=True,
    )


def _psnr(errors: list) -> float:
    return float(10 * np.log10(255**2 / np.mean(errors)))


def _video(codec: str, clip_FHWC: np.ndarray, options: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = clip_FHWC.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", options
        stream.codec_context.thread_count = 1
        for image_HWC in clip_FHWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HWC, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _stills(clip_FHWC: np.ndarray, ending: str, options: list[int]) -> bytes:
    stills = [cv2.imencode(ending, image_HWC[..., ::-1], options)[1].tobytes() for image_HWC in clip_FHWC]
    return b"".join(len(still).to_bytes(4, "big") + still for still in stills)


def _decode_stills(data: bytes, indices: list[int]) -> np.ndarray:
    stills, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        stills.append(data[position + 4 : position + 4 + size])
        position += 4 + size
    return np.stack([cv2.imdecode(np.frombuffer(stills[n], np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for n in indices])


if __name__ == "__main__":
    main()

"""Ingestion of a video against the plain loop, one core each, same weights: ``python -m benchmarks.ingest_speed``.

Fails (exit 1) below a floor: 6 times the plain loop's frames per second (10 is the aim), mean IoU 0.9 between the two
detected box paths over all frames, no track lost, and two workers at 1.5 times one. Loading and region parsing are
outside of both times and printed apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import median_filter

from benchmarks.plain_loop import PlainLoop
from infra.fetch import file_digest
from pipeline.config import FacexlibFaces, IngestConfig, TrackConfig
from pipeline.dataset.tar import TarReader
from pipeline.dataset.work import OUTCOME
from pipeline.faces.backend import build_detector
from pipeline.faces.boxes import iou_matrix
from pipeline.faces.facexlib_weights import FILES
from pipeline.faces.filters import face_side
from pipeline.faces.scan import scan_faces
from pipeline.faces.track import build_track, link_detections
from pipeline.media.clock import StageClock
from pipeline.media.decode import VideoFrames
from pipeline.media.probe import probe
from pipeline.requests import Extract, Parse
from pipeline.rows import FaceTrack, SourceVideo
from pipeline.workers import ClipWorker, RegionWorker

SPEED_FLOOR, SPEED_AIM, IOU_FLOOR, WORKERS_FLOOR = 6.0, 10.0, 0.9, 1.5
MEDIAN_FRAMES = 7
"""The plain loop's boxes are jittery: each track is median-smoothed over so many frames before it is compared."""
LOST_IOU = 0.5
"""A track of the plain loop that ours follows less well than this is lost."""
RECIPE = "be" * 32
ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MARLIN_SHARED", ROOT.parent / "shared"))
STAGES = ("probe", "decode", "shots", "detect", "quality", "track", "crop", "encode", "write")


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, default=SHARED / "videos")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights")
    parser.add_argument("--part", choices=("all", "ours", "workers"), default="all", help="'ours' skips the plain loop")
    chosen = parser.parse_args()
    videos = sorted(chosen.videos.rglob("*.mp4"))
    if not videos:
        print(f"no videos under {chosen.videos}; name a folder with --videos", file=sys.stderr)
        return 2
    _one_thread()
    cfg = ingest_config(chosen.weights)
    print(f"{os.cpu_count()} cores; 1 core a side; {len(videos)} videos; torch {torch.__version__}")
    failed = []
    if chosen.part != "ours":
        failed += _workers(videos, cfg)
    if chosen.part != "workers":
        # decord decodes in a thread of its own; on one core the plain loop pays for it as ours does
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        failed += _compare(videos, cfg, chosen.weights, with_plain=chosen.part == "all")
    for sentence in failed:
        print(f"BELOW THE FLOOR: {sentence}")
    return 1 if failed else 0


def _compare(videos: list[Path], cfg: IngestConfig, weights: Path, *, with_plain: bool) -> list[str]:
    start = time.perf_counter()
    worker = ClipWorker(cfg, RECIPE)
    ours_start = time.perf_counter() - start
    start = time.perf_counter()
    plain = PlainLoop(weights / FILES["retinaface_mobile0.25"].name)
    plain_start = time.perf_counter() - start
    ours, theirs = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)
    frames, ious, lost, compared = 0, [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        _warm(worker, plain, videos[0], Path(folder))
        print(f"{'video':24s} {'size':>9s} {'frames':>6s} {'plain fps':>9s} {'our fps':>8s} {'ratio':>6s} {'IoU':>6s}")
        for video in videos:
            seconds, decoded = _our_job(worker, video, Path(folder))
            frames += decoded
            _add(ours, seconds)
            if with_plain:
                clock = StageClock()
                plain_faces = plain(video, Path(folder), clock)
                plain_seconds = clock.seconds
                _add(theirs, plain_seconds)
                each = _agreement(plain_faces, our_tracks(video, cfg), cfg.track)
                ious += [iou for track in each for iou in track]
                compared += len(each)
                lost += sum(np.mean(track) < LOST_IOU for track in each)
                info = probe(str(video))
                rates = decoded / sum(plain_seconds.values()), decoded / sum(seconds.values())
                mean = np.mean([iou for track in each for iou in track]) if each else float("nan")
                size = f"{info.width}x{info.height}"
                print(
                    f"{video.name:24s} {size:>9s} {decoded:6d} {rates[0]:9.1f} {rates[1]:8.1f} "
                    f"{rates[1] / rates[0]:6.1f} {mean:6.3f}"
                )
        parse_s, maps = _regions(cfg, Path(folder))
    _shares("ours", ours, frames)
    print(f"loading: ours {ours_start:.2f} s, plain {plain_start:.2f} s; regions {1000 * parse_s / maps:.2f} ms a map")
    if not with_plain:
        return []
    _shares("plain", theirs, frames)
    ratio, iou = sum(theirs.values()) / sum(ours.values()), float(np.mean(ious))
    print(f"RATIO {ratio:.1f} (floor {SPEED_FLOOR}, aim {SPEED_AIM}); mean IoU {iou:.3f} (floor {IOU_FLOOR})")
    print(f"over {len(ious)} boxes of {compared} tracks of the plain loop; tracks lost: {lost}")
    failed = [] if ratio >= SPEED_FLOOR else [f"{ratio:.1f} times the plain loop, {SPEED_FLOOR} is the least"]
    failed += [] if iou >= IOU_FLOOR else [f"mean IoU {iou:.3f}, {IOU_FLOOR} is the least"]
    return failed + ([f"{lost} tracks of the plain loop are lost"] if lost else [])


def _our_job(worker: ClipWorker, video: Path, folder: Path) -> tuple[dict[str, float], int]:
    """Do a video's whole job but for region parsing; what no stage of its own claims is ``write``."""
    request = _request(video, folder)
    start = time.perf_counter()
    outcome = worker(request)
    spent = time.perf_counter() - start
    return {**outcome.seconds, "write": spent - sum(outcome.seconds.values())}, outcome.decoded


def _request(video: Path, folder: Path) -> Extract:
    source = SourceVideo(file_digest(video), str(video), video.name, video.stat().st_size)
    return Extract(source, str(video), folder / f"{source.digest[:16]}.clips.tar")


def our_tracks(video: Path, cfg: IngestConfig) -> list[FaceTrack]:
    """Detect and link once more, outside of all times: clips keep the smooth squares, not the detected boxes."""
    detector = build_detector(cfg.faces)
    scan = scan_faces(VideoFrames(str(video)).iter_chunks(32), detector, cfg.track, hold_bytes=0, clock=StageClock())
    chains, fps = link_detections(scan.key_frames, scan.cuts, cfg.track), probe(str(video)).fps
    return [build_track(number, chain, scan.key_frames, cfg.track, fps) for number, chain in enumerate(chains)]


def _agreement(plain: list, ours: list[FaceTrack], cfg: TrackConfig) -> list[list[float]]:
    """IoU, frame by frame, of each track of the plain loop with the one of ours that fits it best; 0 where none is."""
    agreement = []
    for number, chain in enumerate(link_detections(plain, (), cfg)):
        track = build_track(number, chain, plain, cfg, 25.0)
        if len(track.scores_F) < cfg.min_frames or face_side(track.boxes_F4) < cfg.min_face_px:
            continue
        boxes_F4 = median_filter(track.boxes_F4, size=(MEDIAN_FRAMES, 1), mode="nearest")
        rows = [[_iou(boxes_F4[n - track.start], other, n) for n in range(track.start, track.end)] for other in ours]
        agreement.append(max(rows, key=np.mean, default=[0.0] * len(boxes_F4)))
    return agreement


def _iou(box_4: np.ndarray, other: FaceTrack, frame: int) -> float:
    if not other.start <= frame < other.end:
        return 0.0
    return float(iou_matrix(box_4[None], other.boxes_F4[frame - other.start][None])[0, 0])


def _regions(cfg: IngestConfig, folder: Path) -> tuple[float, int]:
    """Parse every clip that was made; return (seconds, region maps)."""
    worker, seconds, maps = RegionWorker(cfg), 0.0, 0
    for tar in sorted(folder.glob("*.clips.tar")):
        with TarReader(tar) as clips:
            if OUTCOME not in clips.names:  # a reject leaves no whole tar
                continue
        outcome = worker(Parse(tar, folder / "regions.tar"))
        seconds += outcome.seconds["parse"]
        maps += -(-outcome.detected // 4)
    return seconds, maps


def _workers(videos: list[Path], cfg: IngestConfig) -> list[str]:
    """Run the list of videos in one process, then in two at once, each with one thread and all the videos."""
    seconds = [_together(count, videos, cfg) for count in (1, 2)]
    gain = 2 * seconds[0] / seconds[1]
    print(f"two one-thread workers: {gain:.2f} times one ({seconds[0]:.1f} s; {seconds[1]:.1f} s for twice the work)")
    return [] if gain >= WORKERS_FLOOR else [f"two workers are {gain:.2f} times one, {WORKERS_FLOOR} is the least"]


def _together(count: int, videos: list[Path], cfg: IngestConfig) -> float:
    spawn = multiprocessing.get_context("spawn")
    barrier, times = spawn.Barrier(count + 1), spawn.Queue()
    workers = [spawn.Process(target=_work, args=(videos, cfg, barrier, times)) for _ in range(count)]
    for worker in workers:
        worker.start()
    barrier.wait(timeout=300)
    longest = max(times.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    return longest


def _work(videos: list[Path], cfg: IngestConfig, barrier, times) -> None:
    _one_thread()
    worker = ClipWorker(cfg, RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        worker(_request(min(videos, key=lambda video: video.stat().st_size), Path(folder)))
        barrier.wait(timeout=300)
        start = time.perf_counter()
        for video in videos:
            worker(_request(video, Path(folder)))
        times.put(time.perf_counter() - start)


def ingest_config(weights: Path) -> IngestConfig:
    """Everything as it stands in the config, but for the weights that both sides share."""
    faces = FacexlibFaces(detector="retinaface_mobile0.25", parser="landmarks", weights=(str(weights),), device="cpu")
    return IngestConfig(faces=faces)


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _warm(worker: ClipWorker, plain: PlainLoop, video: Path, folder: Path) -> None:
    """First calls choose kernels and fill caches; both sides get one, on a few seconds of work."""
    smallest = min(video.parent.parent.rglob("*.mp4"), key=lambda path: path.stat().st_size)
    worker(_request(smallest, folder))
    plain(smallest, folder, StageClock())


def _add(total: dict[str, float], seconds: dict[str, float]) -> None:
    for stage, spent in seconds.items():
        total[stage] = total.get(stage, 0.0) + spent


def _shares(side: str, seconds: dict[str, float], frames: int) -> None:
    whole = sum(seconds.values())
    shares = ", ".join(f"{stage} {100 * spent / whole:.1f} %" for stage, spent in seconds.items() if spent)
    print(f"{side}: {frames / whole:.1f} frames/s ({1000 * whole / frames:.2f} ms a frame): {shares}")


if __name__ == "__main__":
    sys.exit(main())

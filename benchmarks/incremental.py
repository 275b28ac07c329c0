"""What one more night costs when N videos are known: listing, recognising and planning, with nothing new and with one.

    python benchmarks/incremental.py [--known 10 100 1000 10000] [--nights 30]

Each dataset is built through the real writer, without decoding: N small files in a folder, their ledger in units of
``--unit`` videos that came in over ``--nights`` nights, and the memory of what was seen. Then the night's own steps are
timed, in CPU seconds of the process (all threads, system calls included), since neighbours on the machine make wall
time mean little, and the objects it reads are counted. Exits with 1 when a night with one new video among the most
known ones takes more than ``--floor-s`` CPU seconds longer than among the fewest (decoding one video takes seconds).

On two busy cores of a cloud machine, November 2026 (milliseconds, one new video): 22 among 10, 37 among 100, 48 among
1,000, 205 among 10,000; 18 microseconds for each known video, nearly all of it asking the file system for its size.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from infra.storage import LocalStorage
from pipeline.config import FetchConfig
from pipeline.dataset.units import Units
from pipeline.dataset.versions import DatasetVersion, latest_version, publish_version
from pipeline.dataset.work import write_outcome
from pipeline.dataset.writer import write_unit
from pipeline.known import read_known
from pipeline.plan import plan_units
from pipeline.rows import RejectReason, SourceVideo, VideoOutcome
from pipeline.sources.layouts import Layouts
from pipeline.sources.listing import open_source
from pipeline.sources.seen import Seen
from pipeline.sources.staging import Stager
from pipeline.sources.triage import triage

RECIPE = "ab" * 32
REPEATS = 5


class CountingStorage(LocalStorage):
    """A folder that counts what is read from it."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.calls: Counter[str] = Counter()

    def read(self, key: str) -> bytes:
        """See Storage."""
        self.calls["read"] += 1
        return super().read(key)

    def list(self, prefix: str = "") -> Any:
        """See Storage."""
        self.calls["list"] += 1
        return super().list(prefix)


def build(folder: Path, known: int, unit_videos: int, nights: int) -> tuple[Path, CountingStorage]:
    """Make a folder of ``known`` videos and the dataset that ``nights`` ingests of them left."""
    source, storage = folder / "videos", CountingStorage(str(folder / "dataset"))
    scratch = folder / "scratch"
    source.mkdir()
    scratch.mkdir()
    for number in range(known):
        path = source / f"{number // 1000:03d}" / f"{number:06d}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0\0\0\x20ftypisom" + number.to_bytes(8))
        os.utime(path, (1.7e9, 1.7e9))
    listed = list(open_source(str(source), Layouts()).list())
    for night in range(nights):
        videos = stage(storage, listed[known * night // nights : known * (night + 1) // nights])
        units = [videos[at : at + unit_videos] for at in range(0, len(videos), unit_videos)]
        if units:
            publish(storage, [write(storage, f"{night:08x}{at:08x}", unit, scratch) for at, unit in enumerate(units)])
        read_known(storage, latest_version(storage), refresh=True)  # as each night does
    return source, storage


def stage(storage: LocalStorage, listed: list[Any]) -> list[SourceVideo]:
    """Read the files and remember them, as a night does."""
    seen = Seen(storage)
    known = read_known(storage, latest_version(storage), refresh=False)
    staged = list(Stager(storage, FetchConfig(), seen, known).stage(triage(listed, seen, known).due))
    return sorted((video for place in staged for video in place.videos), key=lambda video: video.digest)


def write(storage: LocalStorage, unit: str, videos: list[SourceVideo], scratch: Path) -> Any:
    """Write a unit whose videos all are rejects: a ledger without clips."""
    for video in videos:
        write_outcome(storage, unit, VideoOutcome(
            video.digest, video.name, video.bytes, reject=RejectReason.NO_FACE, place=video.place,
            seconds={"decode": 0.5, "detect": 1.5},
        ))  # fmt: skip
    return write_unit(storage, unit, [video.digest for video in videos], scratch)


def publish(storage: LocalStorage, entries: list[Any]) -> None:
    """Publish the next version."""
    parent = latest_version(storage)
    publish_version(storage, DatasetVersion(
        version=parent.version + 1 if parent else 1, parent=parent.version if parent else None,
        created="2026-01-01T00:00:00+00:00", recipe={}, recipe_digest=RECIPE, faces="embedded", licences=(),
        source_licences=("none",), units=(parent.units if parent else Units.of(())).extended(entries),
    ))  # fmt: skip


def night(source: Path, storage: CountingStorage) -> tuple[dict[str, float], int]:
    """Return the CPU seconds of the steps of ``pipeline.ingest`` up to the plan, and how many videos are planned."""
    storage.calls.clear()
    marks = [time.process_time()]
    listed = list(open_source(str(source), Layouts()).list())
    marks.append(time.process_time())
    latest = latest_version(storage)
    known, seen = read_known(storage, latest, refresh=True), Seen(storage)
    marks.append(time.process_time())
    found = triage(listed, seen, known)
    marks.append(time.process_time())
    videos: list[SourceVideo] = []
    if found.due:
        for place in Stager(storage, FetchConfig(), seen, known).stage(found.due):
            videos += place.videos
    units = plan_units(videos, known, RECIPE, 256_000_000, version=latest.version + 1 if latest else 1)
    marks.append(time.process_time())
    steps = zip(("list", "recall", "compare", "plan"), marks, marks[1:], strict=False)
    return {name: end - start for name, start, end in steps}, sum(len(unit.videos) for unit in units)


def measure(source: Path, storage: CountingStorage, new: int) -> tuple[dict[str, float], int]:
    """CPU seconds by step of the fastest of a few nights with ``new`` videos that no earlier saw; objects read."""
    times: list[dict[str, float]] = []
    for repeat in range(REPEATS):
        path = source / f"new-{repeat}.mp4"
        if new:
            path.write_bytes(b"\0\0\0\x20ftypisom new" + time.time_ns().to_bytes(8))
        taken, planned = night(source, storage)
        path.unlink(missing_ok=True)
        if planned != new:
            sys.exit(f"{planned} videos were planned, and {new} are new")
        times.append(taken)
    return min(times, key=lambda taken: sum(taken.values())), storage.calls["read"]


def main() -> None:
    """Print the curve; fail above the floor."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--known", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--unit", type=int, default=50)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--floor-s", type=float, default=0.5)
    args = parser.parse_args()
    print(
        f"{'known':>7} {'units':>6} {'new':>4} {'list':>9} {'recall':>9} {'compare':>9} {'plan':>9} {'all':>9}  reads"
    )
    totals: dict[tuple[int, int], float] = {}
    for known in args.known:
        with tempfile.TemporaryDirectory() as folder:
            source, storage = build(Path(folder), known, args.unit, min(args.nights, known))
            latest = latest_version(storage)
            for new in (0, 1):
                taken, reads = measure(source, storage, new)
                totals[known, new] = sum(taken.values())
                cells = " ".join(f"{value * 1000:7.1f}ms" for value in (*taken.values(), totals[known, new]))
                print(f"{known:>7} {len(latest.units) if latest else 0:>6} {new:>4} {cells}  {reads:>5}", flush=True)
    more = totals[max(args.known), 1] - totals[min(args.known), 1]
    per_video = more / (max(args.known) - min(args.known)) * 1e6 if len(args.known) > 1 else 0.0
    print(f"one new video among {max(args.known)} instead of {min(args.known)}: {more * 1000:+.0f} ms "
          f"({per_video:.0f} us for each known video)")  # fmt: skip
    if more > args.floor_s:
        sys.exit(f"that is more than {args.floor_s} s")


if __name__ == "__main__":
    main()

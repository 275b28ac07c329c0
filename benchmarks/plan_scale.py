"""A dataset version of 10⁶ shards and 10⁹ clips, opened for pretraining: ``python -m benchmarks.plan_scale``.

Makes such a version (its units are made up, and none is read) and opens it in a fresh process as pretraining does: the
newest version, its units, the order of clips, the first clip's address, that of one in the middle of an epoch after a
resume, and of the first of the next epoch. Fails (exit 1) when that process, torch and all, needs more than 1 GB of
memory or 10 s from its start to its end.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from infra.storage import open_storage
from pipeline.dataset.format import UNIT_COLUMNS
from pipeline.dataset.units import Units
from pipeline.dataset.versions import DatasetVersion, publish_version

MEMORY_CEILING, SECONDS_CEILING = 1e9, 10.0
SHARDS, CLIPS = 1_000_000, 1_000_000_000
ADDRESSES = 10_000


def main() -> int:
    """Measure, print, and return the exit status."""
    if sys.argv[1:]:
        return _open(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        _publish(folder)
        start = time.perf_counter()
        status = subprocess.run([sys.executable, "-m", "benchmarks.plan_scale", folder]).returncode
        seconds = time.perf_counter() - start
    print(f"the whole process: {seconds:.1f} s (ceiling {SECONDS_CEILING:.0f})")
    if seconds > SECONDS_CEILING:
        print(f"ABOVE THE CEILING: {seconds:.1f} s")
    return int(status != 0 or seconds > SECONDS_CEILING)


def _publish(folder: str) -> None:
    """Publish version 1 with ``SHARDS`` units: random digests and counts, which compress no better than real ones."""
    rng = np.random.default_rng(0)
    clips_S = rng.multinomial(CLIPS, np.full(SHARDS, 1 / SHARDS))
    columns = {
        "unit": pa.array([rng.bytes(8).hex() for _ in range(SHARDS)]),
        "tar_bytes": rng.integers(900_000_000, 1_000_000_000, SHARDS),
        "clips": clips_S,
        "frames": clips_S * 60,
        "videos": rng.integers(100, 500, SHARDS),
        "pretrain_train": clips_S,
        "pretrain_val": np.zeros(SHARDS, np.int64),
        "pretrain_test": np.zeros(SHARDS, np.int64),
    }
    for name in ("tar_sha256", "manifest_sha256", "videos_sha256"):
        buffer = pa.py_buffer(rng.bytes(32 * SHARDS))
        columns[name] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), SHARDS, [None, buffer])
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in UNIT_COLUMNS]
    version = DatasetVersion(
        version=1, parent=None, created="2026-01-01T00:00:00+00:00", recipe={}, recipe_digest="0" * 64,
        faces="embedded", licences=(), source_licences=("none",),
        units=Units(pa.Table.from_arrays(arrays, schema=UNIT_COLUMNS)),
    )  # fmt: skip
    storage = open_storage(folder)
    start = time.perf_counter()
    publish_version(storage, version)
    size = sum(storage.size(key) for key in storage.list("versions/"))
    seconds = time.perf_counter() - start
    print(f"{SHARDS} shards, {CLIPS} clips: published in {seconds:.1f} s, {size / 1e6:.0f} MB", flush=True)


def _open(folder: str) -> int:
    """Do what the fresh process does; the exit status says whether it took too much memory."""
    from model.data.source import ClipSource
    from model.nets.config import model_config
    from model.train_config import MaskConfig
    from pipeline.dataset.reader import open_dataset

    imported, start = _high_water(), time.perf_counter()
    reader = open_dataset(folder)
    source = ClipSource(reader, "train", model_config("marlin_vit_base"), MaskConfig(), seed=0)
    opened = time.perf_counter() - start
    for position in (0, source.clips // 2, source.clips):
        source.order[position]
    started = time.perf_counter() - start
    start = time.perf_counter()
    for position in range(source.clips // 3, source.clips // 3 + ADDRESSES):
        source.order[position]
    each, peak = (time.perf_counter() - start) / ADDRESSES, _high_water()
    print(
        f"opened in {opened:.2f} s, three starts after {started:.2f} s; peak {peak / 1e6:.0f} MB (ceiling "
        f"{MEMORY_CEILING / 1e6:.0f}), {imported / 1e6:.0f} MB of it imports; {1e6 * each:.0f} µs a clip"
    )
    if peak > MEMORY_CEILING:
        print(f"ABOVE THE CEILING: {peak / 1e6:.0f} MB")
    return int(peak > MEMORY_CEILING)


def _high_water() -> int:
    """Return the peak of resident bytes of this process; ``ru_maxrss`` of a child begins with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    sys.exit(main())

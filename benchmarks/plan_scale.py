"""The reading plan of 10⁶ shards and 10⁹ clips: ``python -m benchmarks.plan_scale``.

Fails (exit 1) above 1 GB of memory, of the whole process, or 10 s from the counts of clips per shard to the address of
the first clip, of one in the middle of an epoch after a resume, and of the first of the next epoch.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from model.data.order import ClipOrder

MEMORY_CEILING, SECONDS_CEILING = 1e9, 10.0
SHARDS, CLIPS = 1_000_000, 1_000_000_000
BATCHES, BATCH = 1_000, 1_024


def main() -> int:
    """Measure, print, and return the exit status."""
    counts_S = np.random.default_rng(0).multinomial(CLIPS, np.full(SHARDS, 1 / SHARDS))
    before = _high_water()
    start = time.perf_counter()
    order = ClipOrder(counts_S, seed=0)
    for position in (0, CLIPS // 2, CLIPS):
        order[position]
    started = time.perf_counter() - start
    start = time.perf_counter()
    for position in range(CLIPS // 3, CLIPS // 3 + BATCHES * BATCH):
        order[position]
    each = (time.perf_counter() - start) / (BATCHES * BATCH)
    peak = _high_water()
    print(
        f"{SHARDS} shards, {order.clips} clips: three starts in {started:.2f} s (ceiling {SECONDS_CEILING:.0f}); peak "
        f"{peak / 1e6:.0f} MB, {before / 1e6:.0f} MB of it before (ceiling {MEMORY_CEILING / 1e6:.0f}); "
        f"{1e6 * each:.1f} µs a clip over {BATCHES} batches of {BATCH}"
    )
    failed = [] if started <= SECONDS_CEILING else [f"{started:.1f} s to start"]
    failed += [] if peak <= MEMORY_CEILING else [f"{peak / 1e6:.0f} MB"]
    for sentence in failed:
        print(f"ABOVE THE CEILING: {sentence}")
    return 1 if failed else 0


def _high_water() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())

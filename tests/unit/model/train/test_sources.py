"""How many threads a rank reads with."""

import os

from model.train.sources import MOST_WORKERS, reading_workers


def test_a_rank_reads_with_its_share_of_the_cores_where_a_gpu_computes(monkeypatch):
    """Catches eight ranks that each start a thread for every core, and a GPU fed by two."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    assert reading_workers(None, 8, on_gpu=True) == 12
    assert reading_workers(None, 1, on_gpu=True) == MOST_WORKERS
    assert reading_workers(None, 64, on_gpu=True) == reading_workers(None, 1, on_gpu=False) == 2
    assert reading_workers(5, 8, on_gpu=True) == 5

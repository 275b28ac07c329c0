"""What a rank reads, and with how many threads."""

import os
from pathlib import Path

import torch

from model.train.sources import MOST_WORKERS, open_source, reading_workers, reopen_training
from pipeline.dataset.reader import open_dataset
from tests.support.pretraining import face_dataset, small_config


def test_a_process_that_reads_opens_what_the_run_reads(tmp_path: Path):
    """Catches processes that read another split, seed or mask than the run that asks them."""
    dataset = face_dataset(tmp_path / "dataset")
    cfg = small_config(dataset, "seed=5", "data.flip=true", "data.split=val", "mask.strategy=tube")
    wanted = open_source(cfg, open_dataset(str(dataset)), "val")
    found = reopen_training(cfg, 1)
    for position in (0, 3):
        one, other = wanted.load(position), found.load(position)
        assert (one.key, one.first_frame) == (other.key, other.first_frame)
        assert torch.equal(one.clip_THWC, other.clip_THWC)
        assert torch.equal(one.is_masked_L, other.is_masked_L)


def test_a_rank_reads_with_its_share_of_the_cores_where_a_gpu_computes(monkeypatch):
    """Catches eight ranks that each start a thread for every core, and a GPU fed by two."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    assert reading_workers(None, 8, on_gpu=True) == 12
    assert reading_workers(None, 1, on_gpu=True) == MOST_WORKERS
    assert reading_workers(None, 64, on_gpu=True) == reading_workers(None, 1, on_gpu=False) == 2
    assert reading_workers(5, 8, on_gpu=True) == 5

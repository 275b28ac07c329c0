"""What a rank reads, and with how many threads."""

import os
from pathlib import Path

import torch

from model.train.sources import MOST_WORKERS, open_source, open_validation, reading_workers, reopen_training
from pipeline.dataset.reader import open_dataset
from tests.support.clip_dataset import write_clip_dataset
from tests.support.pretraining import face_dataset, small_config


def test_a_process_that_reads_opens_what_the_run_reads(tmp_path: Path):
    """Catches processes that read another split, seed or mask than the run that asks them."""
    dataset = face_dataset(tmp_path / "dataset")
    cfg = small_config(dataset, "seed=5", "data.flip=true", "data.split=val", "data.val_clips=0", "mask.strategy=tube")
    wanted = open_source(cfg, open_dataset(str(dataset)), "val")
    found = reopen_training(cfg, 1)
    for position in (0, 3):
        one, other = wanted.load(position), found.load(position)
        assert (one.key, one.first_frame) == (other.key, other.first_frame)
        assert torch.equal(one.clip_THWC, other.clip_THWC)
        assert torch.equal(one.is_masked_L, other.is_masked_L)


def test_runs_of_other_seeds_are_validated_on_the_same(tmp_path: Path):
    """Catches losses of two seeds that differ by the clips, windows, masks and mirroring they are measured with."""
    dataset = write_clip_dataset(tmp_path / "dataset", [{"anna": [40]} | {f"val-{i}": [40] for i in range(6)}])
    seen = []
    for overrides in ((), ("seed=1", "data.flip=true")):
        source = open_validation(small_config(dataset, *overrides), open_dataset(str(dataset)))
        assert source is not None
        samples = [source.load(position) for position in range(4)]
        seen.append([(one.key, one.first_frame, one.is_masked_L.tolist(), one.clip_THWC.sum()) for one in samples])
    assert seen[0] == seen[1]


def test_a_rank_reads_with_its_share_of_the_cores_where_a_gpu_computes(monkeypatch):
    """Catches eight ranks that each start a thread for every core, and a GPU fed by two."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    assert reading_workers(None, 8, on_gpu=True) == 12
    assert reading_workers(None, 1, on_gpu=True) == MOST_WORKERS
    assert reading_workers(None, 64, on_gpu=True) == reading_workers(None, 1, on_gpu=False) == 2
    assert reading_workers(5, 8, on_gpu=True) == 5

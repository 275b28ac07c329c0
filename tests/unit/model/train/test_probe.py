"""Three numbers that tell features that mean something from features that have collapsed."""

from __future__ import annotations

import pytest
import torch

from model.train.probe import probe_features

VIDEOS = [f"video {n // 4}" for n in range(40)]


def features(between: float, within: float, rank: int = 32) -> torch.Tensor:
    """Forty clips of ten videos around a common direction."""
    draw = torch.Generator().manual_seed(0)
    basis_RD = torch.randn(rank, 64, generator=draw)
    centre_NR = torch.randn(10, rank, generator=draw).repeat_interleave(4, dim=0)
    noise_NR = torch.randn(40, rank, generator=draw)
    return 5 + (between * centre_NR + within * noise_NR) @ basis_RD


def test_features_that_know_their_video_are_told_from_those_that_do_not():
    """Catches neighbours that are the clip itself, and features judged by their common part."""
    good, noise = probe_features(features(1.0, 0.2), VIDEOS), probe_features(features(0.0, 1.0), VIDEOS)
    assert good["probe/same_video(%)"] > 95
    assert noise["probe/same_video(%)"] < 35
    assert good["probe/same_video_by_chance(%)"] == pytest.approx(100 * 3 / 39)


def test_a_collapse_shows_as_no_spread_and_few_directions():
    """The two ways to collapse: all clips in one point, and all on one line."""
    whole = probe_features(features(1.0, 0.2), VIDEOS)
    point = probe_features(features(1e-4, 1e-5), VIDEOS)
    line = probe_features(features(1.0, 0.2, rank=1), VIDEOS)
    assert point["probe/spread"] < 0.01 * whole["probe/spread"]
    assert line["probe/effective_rank"] < 1.1
    assert whole["probe/effective_rank"] > 5


def test_equal_features_are_numbers_too():
    """Catches NaN in the metrics of a fully collapsed run, where they are needed most."""
    found = probe_features(torch.ones(6, 8), ["a", "a", "b", "b", "c", "c"])
    assert all(torch.isfinite(torch.tensor(value)) for value in found.values())
    assert found["probe/spread"] == 0


def test_videos_of_one_clip_each_have_no_neighbours_to_find():
    assert "probe/same_video(%)" not in probe_features(torch.randn(3, 8), ["a", "b", "c"])

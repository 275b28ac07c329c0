"""Features are computed once, kept under a digest of what decides them, and belong to their windows."""

import numpy as np
import pytest
import torch
from torch import nn

from model.adapt import features
from model.adapt.examples import list_clips
from model.adapt.features import compute_features, features_digest
from model.adapt.pixels import ClipPixels
from model.adapt.samples import Window, choose_windows, draws_of
from model.adapt.variants import AsStored, SelfBlended
from pipeline.dataset.cached_features import cached_features, holds_features_of


class Means(nn.Module):
    """A small real encoder: mean colour of each frame through one linear layer; counts its calls."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(48, 5)
        self.calls = 0

    def forward(self, clip_BTHWC):
        self.calls += 1
        return self.linear(clip_BTHWC.float().mean(dim=(2, 3)).flatten(1) / 255)


@pytest.fixture
def pixels(reader):
    return ClipPixels(reader, SelfBlended(), 112, seed=0)


def _rows(pixels):
    return [clip.row for clip in list_clips(pixels.reader)]


def _compute(encoder, pixels, draws, cache):
    return compute_features(encoder, pixels, draws, batch=3, device=torch.device("cpu"), cache=cache, label="features")


def test_rows_belong_to_their_windows_in_any_order(pixels, tmp_path):
    """Catches features shifted against windows, e.g. by a batch that does not divide."""
    draws = draws_of(choose_windows(_rows(pixels)[:4], 1, 0))
    encoder = Means()
    table = _compute(encoder, pixels, draws, tmp_path)
    assert table.features_ND.shape == (8, 5)
    assert table.targets_NJ.tolist() == [[0], [1]] * 4
    for draw in draws:
        real, fake = pixels.samples(draw)
        with torch.no_grad():
            expected = encoder(torch.from_numpy(np.stack([real.frames_THWC, fake.frames_THWC])))
        assert np.allclose(table.of([draw]).features_ND, expected.numpy(), atol=1e-5)
    turned = table.of(draws[::-1])
    assert np.array_equal(turned.features_ND[:2], table.features_ND[-2:])
    assert turned.draws == tuple(draws[::-1])


def test_a_second_run_computes_nothing_and_other_inputs_compute_anew(pixels, tmp_path):
    """Catches a cache keyed by too little: random and pretrained features would be the same numbers."""
    draws = draws_of(choose_windows(_rows(pixels)[:2], 1, 0))
    first, again, other = Means(), Means(), Means(seed=1)
    table = _compute(first, pixels, draws, tmp_path)
    assert np.array_equal(_compute(again, pixels, draws, tmp_path).features_ND, table.features_ND)
    assert again.calls == 0
    assert first.calls > 0
    assert not np.array_equal(_compute(other, pixels, draws, tmp_path).features_ND, table.features_ND)
    digests = {
        features_digest(first, pixels),
        features_digest(other, pixels),
        features_digest(first, ClipPixels(pixels.reader, SelfBlended(), 112, seed=1)),
        features_digest(first, ClipPixels(pixels.reader, SelfBlended(), 96, seed=0)),
        features_digest(first, ClipPixels(pixels.reader, AsStored(), 112, seed=0)),
    }
    assert len(digests) == 5


def test_a_takedown_finds_the_features_of_a_video_and_of_no_other(pixels, tmp_path):
    """Catches a cache whose layout or names changed here alone, so that features outlive the person they are of."""
    rows = [clip for clip in _rows(pixels) if clip.video != _rows(pixels)[-1].video]
    _compute(Means(), pixels, draws_of(choose_windows(rows, 1, 0)), tmp_path / "work" / "cache")
    (path,) = cached_features(tmp_path, below=True)
    assert list(cached_features(tmp_path / "work" / "cache")) == [path]
    assert all(holds_features_of(path, {clip.video}) for clip in rows)
    assert not holds_features_of(path, {_rows(pixels)[-1].video})
    path.write_bytes(b"PK damaged")
    assert holds_features_of(path, {_rows(pixels)[-1].video})


def test_another_subset_of_the_same_clips_computes_only_what_is_new(pixels, tmp_path):
    """Catches a cache per request: few-shot subsets and other tasks would each pay for the same features."""
    windows = choose_windows(_rows(pixels)[:3], 1, 0)
    encoder = Means()
    whole = _compute(encoder, pixels, draws_of(windows[:2]), tmp_path)
    calls = encoder.calls
    part = _compute(encoder, pixels, draws_of(windows[1:2]), tmp_path)
    assert encoder.calls == calls
    assert np.array_equal(part.features_ND, whole.features_ND[2:])
    more = _compute(encoder, pixels, draws_of(windows[1:], 2), tmp_path)
    assert encoder.calls == calls + 2, "six new samples in batches of three"
    assert np.array_equal(more.features_ND[:2], part.features_ND)


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_a_damaged_cache_is_computed_again(pixels, tmp_path, damage):
    """Catches trust in a cache file: cut short, of another kind, or holding pickled objects."""
    draws = draws_of(choose_windows(_rows(pixels)[:1], 1, 0))
    table = _compute(Means(), pixels, draws, tmp_path)
    (path,) = tmp_path.glob("features-*/*.npz")
    if damage is None:
        np.savez(path, features=np.array([{"a": 1}], dtype=object), names=np.array(["a"]))
    else:
        path.write_bytes(damage)
    assert np.array_equal(_compute(Means(), pixels, draws, tmp_path).features_ND, table.features_ND)


def test_a_cache_with_fewer_rows_than_names_is_computed_again(pixels, tmp_path):
    """Catches rows that belong to other windows, or to none."""
    draws = draws_of(choose_windows(_rows(pixels)[:2], 1, 0))
    table = _compute(Means(), pixels, draws, tmp_path)
    (path,) = tmp_path.glob("features-*/*.npz")
    with np.load(path) as arrays:
        np.savez(path, features=arrays["features"][1:], names=arrays["names"])
    assert np.array_equal(_compute(Means(), pixels, draws, tmp_path).features_ND, table.features_ND)


def test_windows_of_another_stride_have_features_of_their_own(pixels, tmp_path):
    """Catches a window named by its first frame alone: at half the stride it is half as long, and another one."""
    row = _rows(pixels)[0]
    wide, narrow = (draws_of([Window(row, tuple(range(0, 16 * step, step)))]) for step in (2, 1))
    first = _compute(Means(), pixels, wide, tmp_path)
    assert not np.allclose(_compute(Means(), pixels, narrow, tmp_path).features_ND, first.features_ND, atol=1e-5)


def test_machines_with_equal_process_ids_share_a_cache(tmp_path, monkeypatch):
    """Catches a temporary file named by the process alone: of two containers, both process 1, one moves it away."""
    path, savez = tmp_path / "unit.npz", np.savez
    monkeypatch.setattr("os.getpid", lambda: 1)

    def interrupted(file, **arrays):
        monkeypatch.setattr(features.np, "savez", savez)
        features._save(path, {"theirs": np.zeros((1, 2), np.float32)})
        savez(file, **arrays)

    monkeypatch.setattr(features.np, "savez", interrupted)
    features._save(path, {"ours": np.ones((1, 2), np.float32)})
    assert features._load(path, 1)["ours"].tolist() == [[1, 1]]
    assert [file.name for file in tmp_path.iterdir()] == ["unit.npz"]

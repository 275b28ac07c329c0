"""Windows become pixels: the right frames, the right labels, the same blends every time."""

from dataclasses import replace

import numpy as np
import pytest

from infra.errors import DatasetError
from model.adapt.examples import list_clips
from model.adapt.pixels import ClipPixels, draw_seed
from model.adapt.samples import Draw, choose_windows, draws_of
from model.adapt.variants import AsStored, SelfBlended
from pipeline.media.decode import decode_clip


def _rows(reader):
    return [clip.row for clip in list_clips(reader)]


def test_clips_are_listed_as_the_manifest_has_them(reader):
    clips = _rows(reader)
    assert len(clips) == 10
    assert len({c.video for c in clips}) == 4
    assert all(reader.read_clip(c.unit, c.row).key == c.key for c in clips)


def test_a_window_gives_a_real_and_a_fake_of_its_own_frames(reader):
    clip = _rows(reader)[1]
    first, second = choose_windows([clip], 2, 0)
    pixels = ClipPixels(reader, SelfBlended(), 224, seed=0)
    for window in (first, second):
        real, fake = pixels.samples(Draw(window, 0))
        assert (real.target, fake.target) == ((0.0,), (1.0,))
        assert real.frames_THWC.shape == fake.frames_THWC.shape == (16, 224, 224, 3)
        stored = decode_clip(reader.read_clip(clip.unit, clip.row).mp4, range(64))[list(window.indices)]
        labelled = replace(window, clip=replace(clip, target=(0.0,)))
        assert np.array_equal(replace(pixels, variants=AsStored()).samples(Draw(labelled, 0))[0].frames_THWC, stored)
        alike = [np.corrcoef(s.ravel(), r.ravel())[0, 1] for s, r in zip(stored, real.frames_THWC, strict=True)]
        assert min(alike) > 0.85, "the real sample shows the same frames, changed in tone only"


def test_blends_are_a_function_of_seed_window_and_draw(reader):
    """Catches blends that depend on the order of reading: threads would change the test set."""
    windows = choose_windows(_rows(reader)[:2], 2, 0)
    pixels = ClipPixels(reader, SelfBlended(), 112, seed=1)
    one = [s for group in pixels.iter_samples(draws_of(windows), ahead=1) for s in group]
    two = [s for group in pixels.iter_samples(draws_of(windows)[::-1], ahead=3) for s in group]
    assert len(one) == 2 * len(windows)
    assert all(s.frames_THWC.shape == (16, 112, 112, 3) for s in one)
    assert np.array_equal(one[1].frames_THWC, two[-1].frames_THWC)
    assert not np.array_equal(one[1].frames_THWC, pixels.samples(Draw(windows[0], 1))[1].frames_THWC)
    first = Draw(windows[0], 0)
    assert draw_seed(0, first) != draw_seed(1, first) != draw_seed(1, Draw(windows[0], 1))


def test_a_row_that_holds_another_clip_is_refused(reader):
    """Catches a manifest read from one version and clips from another."""
    clip = _rows(reader)[0]
    pixels = ClipPixels(reader, SelfBlended(), 224, 0)
    with pytest.raises(DatasetError, match="holds clip"):
        pixels.samples(Draw(choose_windows([replace(clip, row=clip.row + 1)], 1, 0)[0], 0))

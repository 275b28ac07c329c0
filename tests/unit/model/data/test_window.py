"""Windows and the region maps of exactly their frames."""

import numpy as np
import pytest

from infra.errors import ConfigError, DatasetError
from model.data.window import WindowPlan, mirror_frames, mirror_regions
from pipeline.faces.regions import coarsen

PLAN = WindowPlan(frames=16, stride=2, tubelet=2, image_size=224, grid_side=14)


def test_windows_start_where_region_maps_lie_and_end_inside_the_clip():
    """Catches a window that reaches past the clip's end, and one start too few."""
    for frames, starts in ((31, 1), (32, 1), (34, 1), (35, 2), (64, 9)):
        assert PLAN.starts(frames) == starts
        last = PLAN.frame_indices(starts - 1)
        assert last[0] % 4 == 0
        assert last[-1] < frames <= last[-1] + 4


def test_a_window_is_sixteen_frames_at_stride_two():
    assert PLAN.frame_indices(3) == list(range(12, 44, 2))


def test_a_clip_shorter_than_a_window_is_refused():
    with pytest.raises(DatasetError, match="30 frames"):
        PLAN.starts(30)


def test_each_tubelet_has_the_map_of_its_first_frame():
    """Catches regions shifted against frames: tubelet j of window i starts at frame 4i + 4j, map i + j."""
    maps = np.broadcast_to(np.arange(16, dtype=np.uint16)[:, None, None], (16, 28, 28))
    assert PLAN.region_bits(maps, 5)[:, 0, 0].tolist() == list(range(5, 13))


def test_a_patch_holds_the_regions_of_all_its_cells():
    """Catches a maximum or a sample in place of OR; compared with the pipeline's own coarsening."""
    maps = np.random.default_rng(0).integers(0, 2048, (8, 28, 28), dtype=np.uint16)
    assert (PLAN.region_bits(maps, 0) == coarsen(maps, 2)).all()
    coarse = PLAN._replace(image_size=112, grid_side=7)
    assert (coarse.region_bits(maps, 0) == coarsen(maps, 4)).all()


def test_maps_that_end_before_the_window_are_refused():
    with pytest.raises(DatasetError, match="7 region maps"):
        PLAN.region_bits(np.zeros((7, 28, 28), np.uint16), 0)


@pytest.mark.parametrize(("size", "side"), [(224, 14), (224, 28), (224, 7), (112, 7), (112, 14)])
def test_sizes_that_fit_stored_crops_are_taken(size, side):
    PLAN._replace(image_size=size, grid_side=side).check()


@pytest.mark.parametrize("change", [{"image_size": 160, "grid_side": 10}, {"tubelet": 1}, {"stride": 3}])
def test_shapes_whose_regions_would_not_line_up_are_refused_with_the_cure(change):
    with pytest.raises(ConfigError, match=r"must be a multiple|take image_size"):
        PLAN._replace(**change).check()


def test_the_longest_window_that_every_clip_holds_is_taken_and_one_longer_refused_with_the_cure():
    """Catches a limit that is off by one frame, and a cure that would be refused, too."""
    for most, span in ((16, 31), (18, 35)):
        plan = PLAN._replace(frames=most)
        plan.check_clips(span)
        with pytest.raises(ConfigError, match=f"{span - 1}; take model.overrides.frames {most - 1} or less"):
            plan.check_clips(span - 1)


def test_mirroring_twice_is_nothing_and_once_swaps_sides():
    """Catches a flip that leaves the left eye's label on the right."""
    maps = np.random.default_rng(0).integers(0, 2048, (8, 14, 14), dtype=np.uint16)
    assert (mirror_regions(mirror_regions(maps)) == maps).all()
    left_eye_at_left = np.zeros((1, 1, 2), np.uint16)
    left_eye_at_left[0, 0, 0] = 1 << 4 | 1 << 2 | 1 << 6
    assert mirror_regions(left_eye_at_left)[0, 0].tolist() == [0, 1 << 5 | 1 << 3 | 1 << 6]


def test_mirrored_frames_are_the_frames_from_right_to_left():
    """Catches a mirror that goes upside down or swaps colours, and rows that were never written."""
    frames_THWC = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)
    assert (mirror_frames(frames_THWC) == frames_THWC[:, :, ::-1]).all()

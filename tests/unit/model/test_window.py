"""Sliding windows: what marlin-pytorch reads, and the tail that it leaves out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.window import plan_windows


def test_a_long_video_has_windows_at_multiples_of_32_that_end_before_its_end():
    """Catches `<=` for `<`: 64 frames hold one window, not two, as in the released code."""
    assert plan_windows(64) == [list(range(0, 32, 2))]
    assert [window[0] for window in plan_windows(65)] == [0, 32]


@pytest.mark.parametrize("length", [17, 32])
def test_a_middling_video_gives_its_first_frames_without_a_stride(length):
    """Catches taking every second frame of a video that is too short for it."""
    assert plan_windows(length) == [list(range(16))]


@pytest.mark.parametrize("length", [1, 5, 16])
def test_a_short_video_repeats_its_last_frame(length):
    """Catches zero padding and indices behind the end."""
    assert plan_windows(length) == [[min(i, length - 1) for i in range(16)]]


@given(st.integers(1, 400), st.integers(1, 20), st.integers(1, 4), st.integers(1, 20), st.booleans())
def test_every_window_is_full_rising_and_inside_the_video(length, frames, rate, stride, keep_tail):
    """Catches windows that reach over the end, and ends or starts out of order, on which streaming relies."""
    windows = plan_windows(length, frames=frames, sample_rate=rate, stride=stride, keep_tail=keep_tail)
    assert windows
    assert all(len(window) == frames and window == sorted(window) for window in windows)
    assert all(window[0] >= 0 and window[-1] < length for window in windows)
    assert [w[0] for w in windows] == sorted({w[0] for w in windows})
    assert [w[-1] for w in windows] == sorted(w[-1] for w in windows)


def test_the_tail_window_reaches_the_end_of_the_video():
    """Catches a lost tail: without it the last 35 of 100 frames are in no window's span beyond frame 96."""
    without, tail = plan_windows(100), plan_windows(100, keep_tail=True)
    assert tail[:-1] == without
    assert tail[-1] == list(range(69, 100, 2))


def test_a_number_below_one_is_refused():
    """Catches an endless or empty plan from a stride of 0."""
    with pytest.raises(ValueError, match="stride 0"):
        plan_windows(100, stride=0)

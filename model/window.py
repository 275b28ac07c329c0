"""Sliding windows over a video, as in the released code. Pure: a frame count in, frame indices out."""

from __future__ import annotations


def plan_windows(
    length: int, *, frames: int = 16, sample_rate: int = 2, stride: int = 16, keep_tail: bool = False
) -> list[list[int]]:
    """Return the frame indices of each window, in time order.

    More than ``frames · sample_rate`` frames of video: windows of every ``sample_rate``-th frame that start at
    multiples of ``stride · sample_rate`` below ``length − frames · sample_rate``. More than ``frames``: the first
    ``frames`` consecutive ones. Fewer: all frames, the last one repeated.

    Args:
        length: frames of the video, at least 1.
        frames: frames of a window, T.
        sample_rate: frames between the frames of a window.
        stride: distance between window starts, in sampled frames; one start every ``stride · sample_rate`` frames.
        keep_tail: also return a window whose span ends with the video, where the others leave frames out.

    Raises:
        ValueError: a number is not positive.

    Source: the released code; the tail window is ours (it leaves it out).
    """
    if min(length, frames, sample_rate, stride) < 1:
        raise ValueError(f"length {length}, frames {frames}, sample_rate {sample_rate}, stride {stride}: all are ≥ 1")
    span = frames * sample_rate
    if length > span:
        starts = list(range(0, length - span, stride * sample_rate))
        last = length - 1 - (frames - 1) * sample_rate
        if keep_tail and starts[-1] < last:
            starts.append(last)
        return [[start + i * sample_rate for i in range(frames)] for start in starts]
    if length > frames:
        plain = [list(range(frames))]
        # a tail of consecutive frames, like the window before it
        return plain + ([list(range(length - frames, length))] if keep_tail else [])
    return [[min(index, length - 1) for index in range(frames)]]

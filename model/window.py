"""Sliding windows over a video (METHOD, section 8). Pure: a frame count in, frame indices out."""

from __future__ import annotations


def plan_windows(
    frames: int, *, window: int = 16, sample_rate: int = 2, stride: int = 16, keep_tail: bool = False
) -> list[list[int]]:
    """Return the frame indices of each window, in time order.

    More than ``window · sample_rate`` frames: windows of every ``sample_rate``-th frame that start at multiples of
    ``stride · sample_rate`` below ``frames − window · sample_rate``. More than ``window``: the first ``window``
    consecutive frames. Fewer: all frames, the last one repeated.

    Args:
        frames: frames of the video, at least 1.
        window: frames of a window, T.
        sample_rate: frames between the frames of a window.
        stride: distance between window starts, in sampled frames; one start every ``stride · sample_rate`` frames.
        keep_tail: also return a window that ends with the video's last frame, where the others leave frames out.

    Raises:
        ValueError: a number is not positive.

    Source: METHOD, section 8; the tail window is ours (the released code leaves it out).
    """
    if min(frames, window, sample_rate, stride) < 1:
        raise ValueError(f"frames {frames}, window {window}, sample_rate {sample_rate}, stride {stride}: all are ≥ 1")
    span = window * sample_rate
    if frames > span:
        starts = list(range(0, frames - span, stride * sample_rate))
        if keep_tail and starts[-1] + span < frames:
            starts.append(frames - span)
        return [list(range(start, start + span, sample_rate)) for start in starts]
    if frames > window:
        plain = [list(range(window))]
        # a tail of consecutive frames, like the window before it
        return plain + ([list(range(frames - window, frames))] if keep_tail else [])
    return [[min(index, frames - 1) for index in range(window)]]

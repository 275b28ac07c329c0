from __future__ import annotations

import pytest

from pipeline.dataset.format import KEY_PATTERN, clip_key, region_rows
from pipeline.rejects import RejectError
from pipeline.rows import RejectReason


def test_a_key_has_no_dots_and_sorts_by_video_track_and_time() -> None:
    """Bug caught: unpadded numbers, which sort track 10 before 2; a dot, at which WebDataset cuts the key."""
    early = clip_key("a" * 64, 2, 64, "f" * 64)
    late = clip_key("a" * 64, 2, 1280, "f" * 64)
    other = clip_key("a" * 64, 10, 0, "f" * 64)
    assert early < late < other
    assert early == "aaaaaaaaaaaaaaaa-t0002-f0000064-ffffffff"
    assert "." not in early
    assert KEY_PATTERN.fullmatch(early)


@pytest.mark.parametrize(("track", "digest"), [(-1, "a" * 64), (0, "../../etc/passwd")])
def test_a_key_that_would_not_be_a_name_is_refused(track: int, digest: str) -> None:
    """Bug caught: a digest that walks out of the tar."""
    with pytest.raises(ValueError, match="no clip key"):
        clip_key(digest, track, 0, "f" * 64)


@pytest.mark.parametrize(("track", "frame"), [(10_000, 0), (0, 10**7)])
def test_a_video_with_more_tracks_or_frames_than_a_key_has_digits_for_is_a_reject_that_says_so(track, frame) -> None:
    """Catches a fifth digit, which breaks the sort order, and a video of a day that counts as our own error."""
    assert clip_key("a" * 64, 9999, 10**7 - 1, "f" * 64)
    with pytest.raises(RejectError, match=f"track {track} at frame {frame}.*cut it into shorter") as error:
        clip_key("a" * 64, track, frame, "f" * 64)
    assert error.value.reason is RejectReason.TOO_LARGE


def test_a_region_map_stands_for_every_started_group_of_four_frames() -> None:
    """Bug caught: floor instead of ceiling, which loses the last frames' map."""
    assert [region_rows(frames) for frames in (1, 4, 5, 64)] == [1, 1, 2, 16]

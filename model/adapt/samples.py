"""The windows that a task is trained and tested on: plain references first, pixels only when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from model.adapt.task import Target


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One manifest row as adaptation needs it; ``row`` is its index in the unit's manifest, frames are absolute.

    ``identity`` is the person seen and ``donor`` the one whose face was put there, each where known. ``target`` is what
    the task wants predicted of the clip, None where that is made with the pixels. ``subject`` names what bears that
    target: the video, or the clip alone. ``manipulation`` is how a deepfake was made, else empty. ``group`` is what
    ``with_groups`` found.
    """

    unit: str
    row: int
    key: str
    video: str
    name: str
    track: int
    start_frame: int
    frames: int
    split: str
    identity: str | None
    target: Target | None = None
    subject: str = ""
    manipulation: str = ""
    donor: str | None = None
    group: str = ""

    @property
    def people(self) -> frozenset[str]:
        """Whose faces it shows, as far as that is known."""
        return frozenset(filter(None, (self.identity, self.donor)))

    @property
    def ties(self) -> list[str]:
        """What it may share with other clips, so that they are not independent of it: people first, then the video."""
        return [*sorted(f"person:{person}" for person in self.people), f"video:{self.video}"]


@dataclass(frozen=True, slots=True)
class Window:
    """Frames ``indices`` (within the clip) of one clip: what the network sees at once."""

    clip: ClipRow
    indices: tuple[int, ...]

    @property
    def start_frame(self) -> int:
        """First frame in the source video."""
        return self.clip.start_frame + min(self.indices)

    @property
    def end_frame(self) -> int:
        """Frame after the last, in the source video."""
        return self.clip.start_frame + max(self.indices) + 1

    @property
    def group(self) -> str:
        """The people and videos that it hangs together with. Groups, not clips, are independent of each other."""
        return self.clip.group or self.clip.ties[0]

    @property
    def id(self) -> str:
        """Name of the window: clip key and first frame within the clip."""
        return f"{self.clip.key}@{min(self.indices)}"


class Draw(NamedTuple):
    """One blend of one window: ``number`` tells the blends of a window apart; with stored labels it plays no part."""

    window: Window
    number: int


def with_groups(clips: Iterable[ClipRow]) -> list[ClipRow]:
    """Return the clips with their groups: clips that share a person or a video, or a third clip that does, are one.

    A group has the first name of its people or, where none is known, that of its video.
    """
    clips, above = list(clips), dict[str, str]()

    def first(tie: str) -> str:
        while above.setdefault(tie, tie) != tie:
            above[tie] = above[above[tie]]
            tie = above[tie]
        return tie

    for clip in clips:
        for tie in clip.ties[1:]:
            low, high = sorted((first(clip.ties[0]), first(tie)))
            above[high] = low
    return [replace(clip, group=first(clip.ties[0])) for clip in clips]


def draws_of(windows: Iterable[Window], count: int = 1) -> list[Draw]:
    """Return blends 0 … ``count - 1`` of each window, window by window."""
    return [Draw(window, number) for window in windows for number in range(count)]


def windows_of(clip: ClipRow, count: int, *, frames: int = 16, stride: int = 2) -> list[Window]:
    """Return up to ``count`` windows spread evenly over a clip, each starting at a region map (a multiple of 4).

    A clip shorter than ``frames * stride`` is read at stride 1, and a still shorter one repeats its last frame
    (as in the released code).
    """
    step = stride if clip.frames >= frames * stride else 1
    room = max(clip.frames - frames * step, 0) // 4
    starts = sorted({round(i * room / max(count - 1, 1)) * 4 for i in range(count)})
    return [Window(clip, tuple(min(start + i * step, clip.frames - 1) for i in range(frames))) for start in starts]


def choose_windows(clips: Sequence[ClipRow], per_clip: int, most: int, *, frames: int = 16) -> list[Window]:
    """Take ``per_clip`` windows of every clip and, of more than ``most`` (0: no limit), an even selection."""
    windows = [window for clip in with_groups(clips) for window in windows_of(clip, per_clip, frames=frames)]
    if most == 0 or len(windows) <= most:
        return windows
    return [windows[i * len(windows) // most] for i in range(most)]


def count_people(windows: Iterable[Window]) -> int | None:
    """Return how many people are seen, or None where the dataset does not know."""
    people = {window.clip.identity for window in windows}
    return None if None in people or not people else len(people)

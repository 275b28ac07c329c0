"""Keep training and test apart: by whole videos or people where there are enough, else by time with a gap."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from infra.errors import ConfigError, DatasetError
from model.adapt.samples import Window

Side = Literal["train", "val", "test"]
SplitKind = Literal["manifest", "video", "time"]
SIDES: tuple[Side, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """Which windows are on which side, and by which rule. A window in a gap is on no side.

    kind: what separates test from the rest. val_kind: what separates validation from training.
    """

    kind: SplitKind
    val_kind: SplitKind
    sides: Mapping[Side, tuple[Window, ...]]
    gap_frames: int

    def describe(self) -> str:
        """Return one sentence for people: the rule and the size of each side."""
        rule = {
            "manifest": "the dataset's own split",
            "video": "whole videos (people, where known) held out",
            "time": "a later part of the same people's videos (of each video, where people are unknown), at least "
            f"{self.gap_frames} frames after training's",
        }[self.kind]
        sizes = ", ".join(f"{side} {len(self.sides[side])} windows" for side in SIDES)
        return f"tested on {rule}: {sizes}"


def split_windows(
    windows: Sequence[Window],
    *,
    kind: Literal["auto", "manifest", "video", "time"],
    test_fraction: float,
    val_fraction: float,
    min_groups: int,
    gap_frames: int,
    seed: int,
) -> Split:
    """Divide windows into training, validation and test; pure, the order of ``windows`` plays no part.

    A window and the fake made of it are one element here, so a pair is always on one side. Validation is taken from
    what testing leaves, by the same rule where there are enough groups, else by time.

    Raises:
        ConfigError: the rule asked for cannot be met, or a side is empty.
        DatasetError: the result leaks (``check_no_leak``).
    """
    ordered = sorted(windows, key=lambda w: (w.clip.video, w.clip.track, w.start_frame, w.id))
    groups = {window.group for window in ordered}
    chosen = _choose(kind, ordered, len(groups), min_groups)
    sides: dict[Side, tuple[Window, ...]]
    val_kind: SplitKind
    if chosen == "manifest":
        rest, test = [w for w in ordered if w.clip.split == "train"], [w for w in ordered if w.clip.split == "test"]
        val = [w for w in ordered if w.clip.split == "val"]
        if not test:  # a dataset with two sides: its validation side is what nobody trained on
            test, val = val, []
        val_kind = "manifest"
    elif chosen == "video":
        rest, test = _by_group(ordered, test_fraction, seed)
        val, val_kind = [], "video"
    else:
        rest, test = _by_time(ordered, test_fraction, gap_frames)
        val, val_kind = [], "time"
    if not val:
        val_kind = "video" if chosen != "time" and len({w.group for w in rest}) >= min_groups else "time"
        rest, val = (
            _by_group(rest, val_fraction, seed) if val_kind == "video" else _by_time(rest, val_fraction, gap_frames)
        )
    sides = {"train": tuple(rest), "val": tuple(val), "test": tuple(test)}
    empty = [side for side in SIDES if not sides[side]]
    if empty:
        raise ConfigError(
            f"the split '{chosen}' of {len(ordered)} windows from {len(groups)} videos leaves no window for "
            f"{' and '.join(empty)}; add videos, or lower data.gap_frames ({gap_frames}) or raise data.windows_per_clip"
        )
    split = Split(kind=chosen, val_kind=val_kind, sides=sides, gap_frames=gap_frames)
    check_no_leak(split)
    return split


def check_no_leak(split: Split) -> None:
    """Raise DatasetError where two sides share what their rule must keep apart.

    Test against the rest: by video or manifest, no video and no known person on both; by time, no two windows of one
    video closer than the gap. Training against validation likewise, by ``val_kind``.
    """
    rest = split.sides["train"] + split.sides["val"]
    _check_pair("test", split.sides["test"], "training", rest, split.kind, split.gap_frames)
    _check_pair("validation", split.sides["val"], "training", split.sides["train"], split.val_kind, split.gap_frames)


def _check_pair(
    name: str, held: Sequence[Window], other_name: str, other: Sequence[Window], kind: SplitKind, gap_frames: int
) -> None:
    if kind == "time":
        spans: dict[str, list[Window]] = defaultdict(list)
        for window in other:
            spans[window.clip.video].append(window)
        for window in held:
            for near in spans[window.clip.video]:
                distance = max(window.start_frame - near.end_frame, near.start_frame - window.end_frame)
                if distance < gap_frames:
                    raise DatasetError(
                        f"leak: {name} window {window.id} lies {distance} frames from {other_name} window {near.id}; "
                        f"at least {gap_frames} are required"
                    )
        return
    for tie in sorted({t for w in held for t in w.clip.ties} & {t for w in other for t in w.clip.ties}):
        what, _, which = tie.partition(":")
        raise DatasetError(
            f"leak: {what} {which} is on the {name} and the {other_name} side; mend the split of the dataset or of the "
            "label file, or use data.split=video"
        )


def _choose(
    kind: Literal["auto", "manifest", "video", "time"], windows: Sequence[Window], groups: int, min_groups: int
) -> SplitKind:
    if kind == "auto":
        if {"train", "test"} <= {w.clip.split for w in windows}:
            return "manifest"
        return "video" if groups >= min_groups else "time"
    if kind == "manifest" and len({w.clip.split for w in windows}) == 1:
        raise ConfigError(
            f"data.split=manifest needs clips in two splits, and all of them are '{windows[0].clip.split}'; "
            "use data.split=auto"
        )
    if kind == "video" and groups < 2:
        raise ConfigError("data.split=video needs at least two videos (or people); use data.split=time")
    return kind


def _by_group(windows: Sequence[Window], fraction: float, seed: int) -> tuple[list[Window], list[Window]]:
    """Hold out whole groups, in an order that depends on their names and the seed alone."""
    groups = sorted({w.group for w in windows}, key=lambda g: hashlib.sha256(f"{seed}/{g}".encode()).digest())
    held = set(groups[: min(max(round(len(groups) * fraction), 1), len(groups) - 1)])
    return [w for w in windows if w.group not in held], [w for w in windows if w.group in held]


def _by_time(windows: Sequence[Window], fraction: float, gap_frames: int) -> tuple[list[Window], list[Window]]:
    """Hold out the last part of each person's time; windows that reach into the gap before it are left out.

    The cut is one frame number for all videos of a person: a fake and the real video it was made of run alike. (Videos
    that only hang together through others may be of other lengths, and some would lie before the cut as a whole.)
    """
    early: list[Window] = []
    late: list[Window] = []
    for members in _by_person(windows).values():
        first, last = min(w.start_frame for w in members), max(w.end_frame for w in members)
        cut = _cut_frame(members, first + (last - first) * (1 - fraction))
        late += [w for w in members if w.start_frame >= cut]
        early += [w for w in members if w.end_frame <= cut - gap_frames]
    return early, late


def _cut_frame(members: Sequence[Window], wanted: float) -> int:
    """Return the window start next to the wanted time: a cut inside a window would lose that window as well."""
    return min((w.start_frame for w in members), key=lambda start: (abs(start - wanted), start))


def _by_person(windows: Iterable[Window]) -> dict[str, list[Window]]:
    groups: dict[str, list[Window]] = defaultdict(list)
    for window in windows:
        groups[window.clip.identity or window.clip.video].append(window)
    return groups

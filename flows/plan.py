"""Is a new candidate due? A pure function of what the dataset and the registry hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.registry import Abandoned, Attempt, Encoder


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is due, and why."""

    why: str


def due_attempt(
    wanted: Attempt, decided: Sequence[Encoder], abandoned: Sequence[Abandoned], min_new_clips: int
) -> Attempt | Idle:
    """Return the candidate to make on the newest dataset version, if it is due.

    New clips count from the newest candidate that was decided on, promoted or not: a refused one is not made again
    until more have come. Another dataset than that candidate's counts from nothing.

    Args:
        wanted: what it would be made from.
        decided: what to count from, oldest first.
        abandoned: what was given up.
        min_new_clips: clips that make a candidate worthwhile.
    """
    version = wanted.dataset_version
    for given_up in abandoned:
        if given_up.attempt == wanted:
            return Idle(f"a candidate on version {version} of the dataset was abandoned: {given_up.why}")
    last = next((encoder for encoder in reversed(decided) if encoder.dataset == wanted.dataset), None)
    if last is not None and last.dataset_version >= version:
        return Idle(f"version {version} of the dataset was trained on already (registry version {last.number})")
    fresh = wanted.clips - (last.clips if last else 0)
    if fresh < min_new_clips:
        return Idle(f"{max(fresh, 0)} new clips since the last candidate; {min_new_clips} are needed")
    return wanted

"""Is a new candidate due? A pure function of what the dataset and the registry hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.registry import Attempt, Encoder


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is due, and why."""

    why: str


def due_attempt(
    dataset: str, version: int, clips: int, encoders: Sequence[Encoder], live: Encoder | None, min_new_clips: int
) -> Attempt | Idle:
    """Return the candidate to make on the newest dataset version, if it is due.

    New clips count from the newest candidate, promoted or not: a refused one is not made again until more have come.
    Another dataset than that candidate's counts from nothing.

    Args:
        dataset: URI of the dataset.
        version: its newest version.
        clips: clips of that version.
        encoders: all that the registry knows, oldest first.
        live: the one to continue from.
        min_new_clips: clips that make a candidate worthwhile.
    """
    last = next((encoder for encoder in reversed(encoders) if encoder.dataset == dataset), None)
    if last is not None and last.dataset_version >= version:
        return Idle(f"version {version} of the dataset was trained on already (registry version {last.number})")
    fresh = clips - (last.clips if last else 0)
    if fresh < min_new_clips:
        return Idle(f"{max(fresh, 0)} new clips since the last candidate; {min_new_clips} are needed")
    return Attempt(dataset=dataset, dataset_version=version, clips=clips, parent=live.number if live else None)

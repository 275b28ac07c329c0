"""Results of single videos while their unit is in progress: ``work/<unit>/<video>.<ending>``.

``clips.tar`` (KEY.json, KEY.mp4, KEY.flac where there is sound) and ``regions.tar`` (KEY.regions.npy.gz) come first,
``outcome.json`` last: a video with an outcome is finished, with clips or as a reject, and is not treated again.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from infra.storage import Storage
from pipeline.dataset.format import work_key
from pipeline.rows import VideoOutcome

CLIPS, REGIONS, OUTCOME = "clips.tar", "regions.tar", "outcome.json"
"""Endings of a video's three objects."""

_outcomes = TypeAdapter(VideoOutcome)


def outcome_to_bytes(outcome: VideoOutcome) -> bytes:
    """Return an outcome as JSON."""
    return _outcomes.dump_json(outcome)


def outcome_from_bytes(data: bytes) -> VideoOutcome:
    """Inverse of ``outcome_to_bytes``."""
    return _outcomes.validate_json(data)


def write_outcome(storage: Storage, unit: str, outcome: VideoOutcome) -> None:
    """Declare a video finished."""
    storage.write(work_key(unit, outcome.video, OUTCOME), outcome_to_bytes(outcome))


def read_outcome(storage: Storage, unit: str, video: str) -> VideoOutcome | None:
    """Return a finished video's outcome, None while it is not finished."""
    key = work_key(unit, video, OUTCOME)
    return outcome_from_bytes(storage.read(key)) if storage.exists(key) else None


def finished_videos(storage: Storage, unit: str) -> list[str]:
    """Return the digests of a unit's finished videos, sorted."""
    prefix, ending = f"work/{unit}/", f".{OUTCOME}"
    return sorted(key.removeprefix(prefix).removesuffix(ending) for key in storage.list(prefix) if key.endswith(ending))

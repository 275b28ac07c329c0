"""Under which terms a result stands: the licences of its dataset, its labels and its weights, carried along."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.dataset.versions import DatasetVersion

_RESTRICTED = re.compile(
    r"non-?\s?commercial|no commercial|not (be )?(used )?commercial|\bNC\b|research (use|purposes?)? ?only",
    re.IGNORECASE,
)


def dataset_licences(version: DatasetVersion) -> tuple[str, ...]:
    """Return the licences of a version's videos and of the weights that made it."""
    return (f"videos: {version.source_licence}", *(f"{part.part}: {part.licence}" for part in version.licences))


def restricted(licences: Iterable[str]) -> list[str]:
    """Return the licences that forbid commercial use, as far as their own words say it."""
    return [licence for licence in licences if _RESTRICTED.search(licence)]


def licence_note(licences: Iterable[str]) -> str | None:
    """Return the sentence that must stand beside a result made of restricted or unstated parts; None without any."""
    licences = tuple(licences)
    if found := restricted(licences):
        return f"This result stands on parts that may not be used commercially: {'; '.join(found)}."
    unstated = [licence for licence in licences if re.search(r"unstated|not stated|unknown", licence)]
    return f"Licences are not stated of: {'; '.join(unstated)}." if unstated else None

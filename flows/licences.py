"""Which licences allow commercial use: those that the config lists, and no others."""

from __future__ import annotations

from collections.abc import Iterable


def non_commercial(licences: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """Return the parts (``part: licence``) whose licence is not one of ``allowed``, compared without regard to case."""
    known = {licence.casefold() for licence in allowed}
    return [part for part in licences if part.partition(": ")[2].strip().casefold() not in known]

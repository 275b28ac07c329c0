"""Which licences allow commercial use: those that the config lists, and no others."""

from __future__ import annotations

from collections.abc import Iterable

COMMERCIAL = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "MIT")
"""Licences, as sources and weights state them, that allow it unless a config says otherwise."""


def non_commercial(licences: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """Return the parts (``part: licence``) whose licence is not one of ``allowed``, compared without regard to case."""
    known = {licence.casefold() for licence in allowed}
    return [part for part in licences if part.partition(": ")[2].strip().casefold() not in known]

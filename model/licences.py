"""Under which terms results stand: the licences of datasets and weights, united, carried along, and judged here alone.

A licence is a text ``part: terms``, with the terms as the part's source states them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from model.provenance import listed

if TYPE_CHECKING:  # flows' settings import this file, and plain commands load no pyarrow
    from pipeline.dataset.versions import DatasetVersion

COMMERCIAL = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "MIT")
"""Terms that allow commercial use, unless a config says otherwise."""
NOT_STATED = "weights: not stated by the file"
"""What stands behind a foreign weight file."""
Terms = Literal["commercial", "restricted", "unstated", "other"]
_SENTENCES: dict[Terms, str] = {
    "restricted": "This result stands on parts that may not be used commercially",
    "unstated": "Licences are not stated of",
    "other": "Whether commercial use is allowed is for you to read in the terms of",
}

_PURPOSE = r"(research|academic|educational|scientific|teaching|personal|private|study)"
_RESTRICTED = re.compile(
    r"non[-\s]?commercial|\b(no|not)\b(?!\s(restriction|limit))(\s\w+){0,3}\scommercial"
    r"|commercial use (is )?(not|prohibited|forbidden|excluded)"
    rf"|\bNC\b|all rights reserved|\b{_PURPOSE}(\s?(,|/|and|or)\s?{_PURPOSE})*[-\s]+(use|purposes?|only)\b"
    rf"|\b(only|solely|exclusively)\s(for|in)\s(\w+\s){{0,3}}{_PURPOSE}\b",
    re.IGNORECASE,
)
_UNSTATED = re.compile(r"\b(unstated|not stated|unknown|unspecified)\b|^(none|n/a|\W*)$", re.IGNORECASE)


def dataset_licences(version: DatasetVersion) -> tuple[str, ...]:
    """Return the licences of a version's videos and of the weights that made it."""
    return united(
        (_stated("videos", terms) for terms in version.source_licences),
        (_stated(part.part, part.licence) for part in version.licences),
    )


def weight_licences(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the licences of all that weights stand on, as their file says; a foreign file says nothing, which is said.

    That is: videos and face networks of pretraining, the weights that it began with, the data of adaptation. An entry
    that is none of ours states nothing.
    """
    older = provenance.get("source_licence")  # one text for all videos, in files from before each was kept
    videos = [*listed(provenance, "source_licences"), *([] if older is None else [older])]
    is_untold = bool(provenance.get("init_from")) and provenance.get("start_licences") is None
    stated = united(
        (_stated("pretraining videos", terms) for terms in videos),
        (
            _stated(part.get("part"), part.get("licence")) if isinstance(part, Mapping) else NOT_STATED
            for part in listed(provenance, "licences")
        ),
        [f"initial {NOT_STATED}"] if is_untold else [],
        (
            licence if isinstance(licence, str) else NOT_STATED
            for key in ("start_licences", "adapted_on_licences")
            for licence in listed(provenance, key)
        ),
    )
    return stated or (NOT_STATED,)


def united(*parts: Iterable[str]) -> tuple[str, ...]:
    """Return the licences of several inputs, each once, in their order."""
    return tuple(dict.fromkeys(licence for part in parts for licence in part))


def terms_of(licence: str, allowed: Iterable[str] = COMMERCIAL) -> Terms:
    """Judge a licence: only what is ``allowed``, word for word but for case, is ``commercial``.

    ``restricted`` forbids it in its own words, as far as these are known; ``other`` is for its reader to judge.
    """
    part, separator, rest = licence.partition(": ")
    terms = (rest if separator else part).strip()
    if terms.casefold() in {name.casefold() for name in allowed}:
        return "commercial"
    if _RESTRICTED.search(terms):
        return "restricted"
    return "unstated" if _UNSTATED.search(terms) else "other"


def non_commercial(licences: Iterable[str], allowed: Iterable[str] = COMMERCIAL) -> list[str]:
    """Return the licences that do not allow commercial use."""
    allowed = tuple(allowed)
    return [licence for licence in licences if terms_of(licence, allowed) != "commercial"]


def licence_note(licences: Iterable[str]) -> str | None:
    """Return what must stand beside a result of these parts; None where all of them allow commercial use."""
    licences = tuple(licences)
    sentences = (
        f"{text}: {'; '.join(found)}."
        for terms, text in _SENTENCES.items()
        if (found := [licence for licence in licences if terms_of(licence) == terms])
    )
    return " ".join(sentences) or None


def _stated(part: Any, terms: Any) -> str:
    return f"{part}: {str(terms or '').strip() or 'not stated'}"

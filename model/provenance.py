"""What stands behind weights, as their file says: labels that were learnt, and how faces were cut out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ADAPTED = "adapt-"
"""How the kind of an adapted file begins."""
PRETRAINING = "pretraining"
"""Under what an adapted file keeps all that the file of its pretrained weights said."""


def listed(provenance: Mapping[str, Any], key: str) -> list[Any]:
    """Return the entries of a list in a file's header, which is anybody's: what is no list is its one entry."""
    value = provenance.get(key)
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def crop_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides how a dataset's faces are cut out; an adapted file keeps it under ``crop``."""
    crop = {"track": recipe.get("track"), "detector": _detector(recipe.get("faces"))}
    return {part: value for part, value in crop.items() if value is not None}


def crop_behind(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``crop_of`` gave; files once kept the recipe's own ``faces``, and some say nothing."""
    crop = provenance.get("crop")
    return {**crop_of(crop), **crop} if isinstance(crop, Mapping) else {}


def labels_behind(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Return whose labels the encoder has learnt, itself or through the weights that it began with; mostly none.

    A file that was adapted before this was written down may have learnt them, and is taken to have.
    """
    if provenance.get("labels_learnt") is not None:
        return tuple(map(str, listed(provenance, "labels_learnt")))
    kind = str(provenance.get("kind", ""))
    if not kind.startswith(ADAPTED):
        return ()
    return (labels_of(kind.removeprefix(ADAPTED), provenance.get("dataset"), provenance.get("dataset_version")),)


def labels_of(task: str, dataset: object, version: object) -> str:
    """Return how labels are named."""
    return f"{task} of {dataset}, version {version}"


def _detector(faces: object) -> str | None:
    """The detector of a recipe's ``faces``, whatever release wrote them (see ``pipeline.faces.backend``)."""
    if not isinstance(faces, Mapping):
        return None
    return "centerface" if faces.get("kind") == "embedded" else faces.get("detector")

"""What stands behind weights, as their file says: labels that were learnt, and how faces were cut out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ADAPTED = "adapt-"
"""How the kind of an adapted file begins."""
PRETRAINING = "pretraining"
"""Under what an adapted file keeps all that the file of its pretrained weights said."""

CROP = ("faces", "track")
"""Parts of a dataset's recipe that decide how a face is cut out; an adapted file keeps them under ``crop``."""


def labels_behind(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Return whose labels the encoder has learnt, itself or through the weights that it began with; mostly none.

    A file that was adapted before this was written down may have learnt them, and is taken to have.
    """
    if "labels_learnt" in provenance:
        return tuple(map(str, provenance["labels_learnt"]))
    kind = str(provenance.get("kind", ""))
    if not kind.startswith(ADAPTED):
        return ()
    return (labels_of(kind.removeprefix(ADAPTED), provenance.get("dataset"), provenance.get("dataset_version")),)


def labels_of(task: str, dataset: object, version: object) -> str:
    """Return how labels are named."""
    return f"{task} of {dataset}, version {version}"

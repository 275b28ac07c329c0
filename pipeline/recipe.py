"""The recipe: everything that decides output bytes. Its digest is part of every clip's key."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pipeline.config import IngestConfig
from pipeline.dataset.versions import flat_settings
from pipeline.faces.backend import backend_licences
from pipeline.sources.layouts.official import split_digests

REVISION = 5
"""Raise it when the code changes what comes out of equal settings."""


def recipe_settings(cfg: IngestConfig) -> dict[str, Any]:
    """Return the settings that change output bytes, the digests of the weights, and the code's revision.

    Left out: where weights are taken from, the device (bytes are promised per type of device), bounds on time and
    memory, the size of shards, the number of workers, and the source's licence.
    """
    return {
        "revision": REVISION,
        "faces": cfg.faces.model_dump(mode="json", exclude={"weights", "device"}),
        "weights": {str(part["part"]): str(part["sha256"]) for part in backend_licences(cfg.faces)},
        "track": cfg.track.model_dump(mode="json"),
        "clip": cfg.clip.model_dump(mode="json"),
        "split": cfg.split.model_dump(mode="json", exclude={"official"}),
        "official_splits": split_digests(cfg.split),
        "seed": cfg.seed,
    }


def recipe_digest(cfg: IngestConfig) -> str:
    """Return the sha256 (hex) of ``recipe_settings``."""
    text = json.dumps(recipe_settings(cfg), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Name the settings in which two recipes differ, as ``track.margin (1.3, now 1.4)``, sorted."""
    before, after = flat_settings(old), flat_settings(new)
    return [
        f"{name} ({before.get(name, 'absent')}, now {after.get(name, 'absent')})"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]

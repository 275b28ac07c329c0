"""Where adaptation caches the features of clips, and whose they are: one place, so that a takedown finds them.

``CACHE/features-<digest of what decides them>/<unit>.npz`` has the features and, as ``names``, their windows' names,
which begin with the clip's key.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

_KEPT_DIGITS = 24
_FOLDER = re.compile(rf"features-[0-9a-f]{{{_KEPT_DIGITS}}}")
_VIDEO_DIGITS = 16
"""Digits of a video's digest with which the keys of its clips begin (``clip_key``)."""
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What reading a damaged file of features raises."""


def features_path(cache: Path, digest: str, unit: str) -> Path:
    """Return where the features of a unit's clips lie; ``digest`` stands for all that decides them."""
    return cache / f"features-{digest[:_KEPT_DIGITS]}" / f"{unit}.npz"


def cached_features(folder: Path, *, below: bool = False) -> Iterator[Path]:
    """Yield the files of features in a cache, those that were half written among them; links are not followed.

    ``below`` looks for caches in every folder below ``folder``, too.
    """
    for path in folder.rglob("features-*") if below else folder.glob("features-*"):
        if _FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield from path.glob("*.npz*")


def holds_features_of(path: Path, videos: Collection[str]) -> bool:
    """Tell whether a file has features of one of some videos (sha256, hex), or cannot be read.

    A damaged file says of nobody that it is not theirs, and is computed again when it is gone.
    """
    begins = {digest[:_VIDEO_DIGITS] for digest in videos}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return any(str(name)[:_VIDEO_DIGITS] in begins for name in arrays["names"].tolist())
    except UNREADABLE:
        return True

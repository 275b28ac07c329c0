"""Official splits, as lists of names that the config points to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from infra.errors import ConfigError
from infra.fetch import file_digest
from pipeline.config import SplitConfig, SplitLists
from pipeline.places import printable
from pipeline.sources.layouts.described import read_label_file

MAX_LIST_BYTES = 64 << 20


def official_split(lists: SplitLists | None, key: Callable[[str], str] = str) -> dict[str, str]:
    """Return name → split of a dataset's lists; empty without lists.

    A list is JSON (names, or tuples of names such as FaceForensics++'s pairs) or text (the first word of each line).

    Args:
        lists: the files.
        key: turns a listed name into the name that is split: a person for a person-disjoint split, say.

    Raises:
        ConfigError: a file cannot be read, is no list, or two lists claim the same name.
    """
    split_of: dict[str, str] = {}
    for split, path in (lists.model_dump() if lists else {}).items():
        for entry in _entries(path) if path else ():
            name = key(entry)
            if split_of.setdefault(name, split) != split:
                raise ConfigError(
                    f"split list {printable(path)} names {name!r} for {split}, and another list for {split_of[name]}; "
                    "give lists of one official split"
                )
    return split_of


def split_digests(cfg: SplitConfig) -> dict[str, str]:
    """Return ``<dataset>.<split>`` → sha256 of its list: what the recipe knows of them, wherever they lie.

    Raises:
        ConfigError: a list cannot be read.
    """
    digests = {}
    for dataset, lists in cfg.official.items():
        for split, path in lists.model_dump().items():
            if path:
                digests[f"{dataset}.{split}"] = _digest(path)
    return digests


def _digest(path: str) -> str:
    try:
        return file_digest(Path(path))
    except OSError as error:
        raise ConfigError(f"split list {printable(path)} cannot be read: {error.strerror or error}") from error


def _entries(path: str) -> list[str]:
    data = read_label_file(path, MAX_LIST_BYTES)
    try:
        text = data.decode()
        if text.lstrip()[:1] != "[":
            words = (line.replace(",", " ").split() for line in text.splitlines())
            return [line[0] for line in words if line]
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"split list {printable(path)} is damaged ({error}); fetch it again") from error
    names = [name for entry in listed for name in (entry if isinstance(entry, list) else [entry])]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"split list {printable(path)} must hold names, or lists of names, as text")
    return names

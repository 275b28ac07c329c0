"""LRS2: ``main/<id>/<utterance>.mp4`` with the words beside it, and lists of the split above."""

from __future__ import annotations

import os
import re

from pipeline.config import SplitLists
from pipeline.sources.layouts.described import Described
from pipeline.sources.layouts.official import official_split

_PATH = re.compile(r"^(?P<home>.*)/(?P<part>main|pretrain)/(?P<speaker>\d+)/(?P<utterance>\d+)\.mp4$")
_MAX_WORDS_BYTES = 1 << 16
_SPLITS = ("train", "val", "test")


class Lrs2:
    """``text`` is what is said; the identity is the folder's number. ``pretrain`` belongs to the training part.

    The split is that of the configured lists, else of ``train.txt``, ``val.txt`` and ``test.txt`` beside ``main``.
    """

    def __init__(self, lists: SplitLists | None = None) -> None:
        """Read the configured split lists, if there are any."""
        self._split_of = official_split(lists, key=_key) if lists else None
        self._found: dict[str, dict[str, str]] = {}

    def describe(self, path: str, root: str) -> list[Described] | None:
        """Return what the posix path and the file of words tell; None where it is no utterance of LRS2."""
        match = _PATH.match(path)
        text = _words(path.removesuffix(".mp4") + ".txt") if match else None
        if match is None or text is None:
            return None
        if match["part"] == "pretrain":
            split: str | None = "train"
        else:
            split = self._lists(match["home"]).get(f"{match['speaker']}/{match['utterance']}")
        return [Described({"text": text}, f"lrs2-{match['speaker']}", split)]

    def _lists(self, home: str) -> dict[str, str]:
        if self._split_of is not None:
            return self._split_of
        if home not in self._found:
            paths = {split: os.path.join(home, f"{split}.txt") for split in _SPLITS}
            there = {split: path for split, path in paths.items() if os.path.isfile(path)}
            self._found[home] = official_split(SplitLists(**there), key=_key)
        return self._found[home]


def _key(entry: str) -> str:
    return entry.removesuffix(".mp4").removeprefix("main/")


def _words(path: str) -> str | None:
    """Return the words of an utterance: the line ``Text: …`` at the head of its file; None without it."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            head, _, _ = file.read(_MAX_WORDS_BYTES).partition(b"\n")
    except OSError:
        return None
    name, colon, text = head.decode("utf-8", "replace").partition(":")
    return " ".join(text.split()) if colon and name.strip() == "Text" else None

"""What the pages of the documentation tell people to type, and the files that they show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("make", ".venv/bin/marlin")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block, without the indentation of a list."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)) for indent, language, text in found]


def shown_files(page: Path) -> list[tuple[str, str]]:
    """(name, content) of the files that the page shows: YAML whose first line is ``# name.yaml``."""
    named = ((re.match(r"# ([\w-]+\.yaml)", text), text) for language, text in blocks(page) if language == "yaml")
    return [(match[1], text) for match, text in named if match]


def commands(page: Path) -> list[tuple[str, ...]]:
    """Words of each command of ours, in the order of blocks, then those within text."""
    lines = [line for language, text in blocks(page) if language in ("", "sh") for line in text.split("\n")]
    lines += re.findall(r"`(\.venv/bin/marlin [^`]*)`", page.read_text(encoding="utf-8"))
    found = []
    for line in lines:
        for part in re.split(r"\s(?:&&|\|\|?|&)\s", line):
            words = [word for word in shlex.split(part, comments=True) if not re.match(r"\d?>", word)]
            starts = [i for i, word in enumerate(words) if word in PROGRAMS]
            if starts:
                found.append(tuple(words[starts[0] :]))
    return found

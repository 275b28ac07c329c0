"""What the README tells people to type works, and what it shows is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line for block in re.findall(r"^```\w*\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) for line in block.split("\n")
]
COMMANDS = [words for line in LINES if (words := shlex.split(line, comments=True))]
LINKS = re.findall(r"\]\(([^):]+)\)", TEXT)
MAX_PICTURE_BYTES = 150_000


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_line_of_the_readme_parses(marlin, words):
    """Catches an option, a setting or a make target that was renamed, and the README that was forgotten."""
    program, *arguments = words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert program == ".venv/bin/marlin", f"nothing checks {program}"
    said = marlin(*arguments, "--print-config")
    assert said.code == 0, said.err


@pytest.mark.parametrize("link", LINKS)
def test_every_link_of_the_readme_leads_somewhere_small(link):
    path = ROOT / link
    assert path.exists()
    assert path.suffix not in (".png", ".jpg") or path.stat().st_size < MAX_PICTURE_BYTES

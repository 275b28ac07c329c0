"""What README and docs tell people to type works, and what they show is there."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("quickstart", "nightly", "own-dataset", "upgrading", "ingestion")),
]
LINKED = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "infra" / "deploy" / "README.md"]
MAX_PICTURE_BYTES = 150_000


@dataclass(frozen=True)
class Typed:
    """A command that a page says, the page, and the files that it shows: {name: content}."""

    page: Path
    words: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


def _blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block, without the indentation of a list."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)) for indent, language, text in found]


def _commands(page: Path) -> list[Typed]:
    blocks = _blocks(page)
    shown = [
        (match[1], text)
        for language, text in blocks
        if language == "yaml" and (match := re.match(r"# (\S+\.yaml)", text))
    ]
    lines = [line for language, text in blocks if language in ("", "sh") for line in text.split("\n")]
    lines += re.findall(r"`(\.venv/bin/marlin [^`]*)`", page.read_text(encoding="utf-8"))
    found = []
    for line in lines:
        for part in re.split(r"\s(?:&&|\||&)\s", line):
            words = shlex.split(part, comments=True)
            starts = [i for i, word in enumerate(words) if word in ("make", ".venv/bin/marlin")]
            if starts:
                files = tuple((name.rstrip(":"), text) for name, text in shown)
                found.append(Typed(page, tuple(words[starts[0] :]), files))
    return found


COMMANDS = [typed for page in PAGES for typed in _commands(page)]


@pytest.mark.parametrize("typed", COMMANDS, ids=lambda typed: f"{typed.page.stem}: {' '.join(typed.words)}")
def test_every_command_parses_with_the_files_that_its_page_shows(marlin, tmp_path, typed):
    """Catches an option, a setting or a make target that was renamed, and the page that was forgotten."""
    program, *arguments = typed.words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    for name, text in typed.files:
        (tmp_path / name).write_text(text)
    if "--config" in arguments and "house.yaml" in arguments and not typed.files:
        (tmp_path / "house.yaml").write_text("{}")  # the reader's own
    said = marlin(*arguments, *(() if "--print-config" in arguments else ("--print-config",)))
    assert said.code == 0, said.err


def test_every_page_for_people_says_commands():
    """Catches a reader of blocks that finds nothing and so checks nothing."""
    assert {typed.page for typed in COMMANDS} == set(PAGES)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere_small(page):
    for link in re.findall(r"\]\(([^):\s]+)\)", page.read_text(encoding="utf-8")):
        path = page.parent / link.partition("#")[0]
        assert path.exists(), link
        assert path.suffix not in (".png", ".jpg") or path.stat().st_size < MAX_PICTURE_BYTES


def test_sentences_that_troubleshooting_quotes_are_said_somewhere():
    """Catches a symptom whose wording was changed, which nobody finds then by searching for it."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    sources = (path for name in ("flows", "model", "pipeline", "infra") for path in (ROOT / name).rglob("*.py"))
    code = "\n".join(path.read_text() for path in sources)
    squeezed = re.sub(r'"\s*f?"', "", code)
    rows = re.findall(r"^\| `(.+?)`", text, re.MULTILINE)
    assert len(rows) > 8
    for row in rows:
        pieces = [piece.strip() for piece in re.split(r"…|\(|\)", row) if len(piece.strip()) > 8]
        if row != "database is locked":  # SQLite's own
            assert all(piece in squeezed for piece in pieces), row

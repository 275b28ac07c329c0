"""What README and docs tell people to type works, and what they show is there."""

from __future__ import annotations

import re

import pytest

from tests.support.pages import ROOT, commands, shown_files

PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("quickstart", "nightly", "own-dataset", "upgrading", "ingestion")),
]
LINKED = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "infra" / "deploy" / "README.md"]
MAX_PICTURE_BYTES = 150_000


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.stem
)
def test_every_command_parses_with_the_files_that_its_page_shows(marlin, tmp_path, page, words):
    """Catches an option, a setting or a make target that was renamed, and the page that was forgotten."""
    program, *arguments = words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    for name in ("house.yaml", "nightly.yaml"):  # the reader's own, where the page shows none
        (tmp_path / name).write_text("{}")
    for name, text in shown_files(page):
        (tmp_path / name).write_text(text)
    said = marlin(*arguments, *(() if "--print-config" in arguments else ("--print-config",)))
    assert said.code == 0, said.err


def test_every_page_for_people_says_commands():
    """Catches a reader of blocks that finds nothing and so checks nothing."""
    assert {page for page, _ in COMMANDS} == set(PAGES)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere_small(page):
    for link in re.findall(r"\]\(([^):\s]+)\)", page.read_text(encoding="utf-8")):
        path = page.parent / link.partition("#")[0]
        assert path.exists(), link
        assert path.suffix not in (".png", ".jpg") or path.stat().st_size < MAX_PICTURE_BYTES


# What SQLite and Ray say themselves.
OTHERS_WORDS = ("database is locked", "has constructor arguments in the object store and max_restarts > 0")


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
        if row not in OTHERS_WORDS:
            assert all(piece in squeezed for piece in pieces), row

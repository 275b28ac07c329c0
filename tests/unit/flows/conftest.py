"""The command line as a person meets it: what it says on both streams, and its exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.cli import main


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that a refused command says; nothing else may be on either stream."""
        lines = self.err.splitlines()
        assert (self.code, self.out, len(lines)) == (2, "", 1), (self.code, self.out, self.err)
        assert lines[0].startswith("marlin: ")
        return lines[0]


Marlin = Callable[..., Said]


@pytest.fixture
def marlin(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Marlin:
    """Run the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Said:
        code = main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return run

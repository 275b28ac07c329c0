"""The command line as a person meets it: what it says on both streams, and its exit code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.cli import main
from infra.log import PACKAGES


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
def marlin(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Marlin]:
    """Run the command line in an empty folder; logging is put back as it was."""
    monkeypatch.chdir(tmp_path)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]

    def run(*arguments: object) -> Said:
        code = main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    yield run
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)

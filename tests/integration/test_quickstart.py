"""docs/quickstart.md, typed as it stands."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT, commands, shown_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PAGE = ROOT / "docs" / "quickstart.md"
ELSEWHERE = ("make", "up", "down", "registry", "adapt")
"""Words of commands that other tests run: setting up, and what needs the service or an encoder that has learnt."""


def test_the_first_half_works_as_it_is_typed(sample_videos: Path, tmp_path: Path) -> None:
    """Catches a page whose commands parse and yet do not lead from one to the next."""
    shutil.copytree(sample_videos, tmp_path / "work" / "videos")  # fetched already
    for name, text in shown_files(PAGE):
        (tmp_path / name).write_text(text)
    typed = [words for words in commands(PAGE) if not set(words[:2]) & set(ELSEWHERE)]
    assert len(typed) >= 7
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for _, *arguments in typed:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stderr[-2000:]}"
    assert (tmp_path / "work" / "faces.html").stat().st_size > 10_000
    assert (tmp_path / "work" / "first.png").exists()
    assert "↓ run" in done.stdout  # the last one is the lineage of a video

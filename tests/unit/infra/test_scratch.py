from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from infra.scratch import owned_folder, scratch_folder

HOLD = """
import sys, time
from infra.scratch import scratch_folder
print(scratch_folder(), flush=True)
time.sleep(60)
"""


def test_a_killed_processs_folder_is_swept_and_a_live_ones_is_not(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: disks that fill up with the remains of killed workers; a live worker's files swept away."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, env=environment)
    try:
        theirs = holder.stdout.readline().decode().strip()
        assert theirs.startswith(str(tmp_path))
        ours = scratch_folder()
        assert ours.is_dir()
        assert os.path.isdir(theirs)
    finally:
        holder.kill()
        holder.wait()
    again = scratch_folder()
    assert not os.path.exists(theirs)
    assert ours.is_dir()
    assert again.is_dir()


def test_what_is_not_a_dead_process_s_own_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: a sweep that takes what others use, another user's folder, one without our mark, or behind a link."""
    dead = (
        "import pathlib, sys; from infra.scratch import owned_folder; "
        "print(owned_folder(pathlib.Path(sys.argv[1]), sys.argv[2])[0])"
    )

    def of_dead(prefix: str) -> Path:
        printed = subprocess.run([sys.executable, "-c", dead, str(tmp_path), prefix], capture_output=True, check=True)
        return Path(printed.stdout.decode().strip())

    ours, elsewhere = of_dead("node-"), of_dead("elsewhere-")
    (tmp_path / "node-strange").mkdir()
    (tmp_path / "node-link").symlink_to(elsewhere)
    with monkeypatch.context() as patched:
        patched.setattr("os.getuid", lambda: 12345)  # then all are another user's
        alive, handle = owned_folder(tmp_path, "node-")
    assert ours.exists()
    other, _ = owned_folder(tmp_path, "node-")
    assert {path.name for path in tmp_path.iterdir()} == {
        alive.name, other.name, elsewhere.name, "node-strange", "node-link",
    }  # fmt: skip
    os.close(handle)
    owned_folder(tmp_path, "node-")
    assert not alive.exists()

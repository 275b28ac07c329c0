from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from pipeline import scratch
from pipeline.scratch import scratch_folder

HOLD = """
import sys, time
from pipeline.scratch import scratch_folder
print(scratch_folder(), flush=True)
time.sleep(60)
"""


def test_a_killed_processs_folder_is_swept_and_a_live_ones_is_not(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: disks that fill up with the remains of killed workers; a live worker's files swept away."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_YOUNG_S", -1.0)
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

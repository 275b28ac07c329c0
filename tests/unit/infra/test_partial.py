"""Files that are being fetched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import infra.partial
from infra.errors import TransientError
from infra.partial import Deadline, Partial, claimed, forget_partial, sweep_partials


@pytest.mark.parametrize("note", [b"\xff\xfe", b'{"half', b"[1]", b"[" * 100_000])
def test_a_damaged_note_of_what_was_fetched_begins_anew(tmp_path: Path, note: bytes) -> None:
    path = tmp_path / "video"
    path.write_bytes(b"of an unknown version")
    (tmp_path / "video.validator").write_bytes(note)
    with Partial(path, max_bytes=100, deadline=Deadline(60.0)) as partial:
        assert (partial.size, partial.validator) == (0, None)
        partial.restart('"new"')
        partial.write(b"whole")
        assert partial.finish().bytes == 5
    assert path.read_bytes() == b"whole"


KILLED = """
import os, signal, sys
from pathlib import Path
from infra.partial import Deadline, Partial, claimed
path = Path(sys.argv[1])
with claimed(path, Deadline(60.0)), Partial(path, max_bytes=100, deadline=Deadline(60.0)) as partial:
    partial.restart('"v"')
    partial.write(b"half")
    partial.finish()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_the_bytes_and_no_lock(tmp_path: Path) -> None:
    """Catches a lock that outlives its process, and a download of an hour that begins anew."""
    path = tmp_path / "video"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=Path(infra.partial.__file__).parents[1])
    assert done.returncode == -signal.SIGKILL
    with claimed(path, Deadline(0.1)), Partial(path, max_bytes=100, deadline=Deadline(60.0)) as partial:
        assert (partial.size, partial.validator) == (4, '"v"')


def test_of_many_who_want_a_file_one_has_it_at_a_time(tmp_path: Path) -> None:
    """Catches two who hold a lock each, since one deleted the file that the other had opened to lock."""
    path, inside, most = tmp_path / "video", [], []

    def fetch(number: int) -> None:
        for _ in range(20):
            with claimed(path, Deadline(60.0)):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.001)
                path.write_bytes(b"")
                inside.remove(number)
                forget_partial(path)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr("infra.partial._WAIT_S", 0.0)
        list(pool.map(fetch, range(4)))
    assert max(most) == 1
    assert list(tmp_path.iterdir()) == []


def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "video", Deadline(1.0)),
        pytest.raises(TransientError, match="another ingest"),
        claimed(tmp_path / "video", Deadline(0.1)),
    ):
        pass


def test_a_sweep_leaves_what_another_ingest_fetches(tmp_path: Path) -> None:
    """Catches a file that is deleted while it is written, so that its ingest ends when it wants to store it."""
    for name in ("busy", "busy.validator", "idle", "idle.validator", "idle.lock"):
        (tmp_path / name).write_bytes(bytes(100))
    with claimed(tmp_path / "busy", Deadline(1.0)):
        sweep_partials(tmp_path, 0)
        assert {path.name for path in tmp_path.iterdir()} == {"busy", "busy.validator", "busy.lock"}
    sweep_partials(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_old_parts_are_swept_and_the_newest_are_kept(tmp_path: Path) -> None:
    """Bug caught: a cache that grows for ever; the download of an hour ago thrown away for one of last week."""
    for age, name in enumerate(["new", "old", "older"]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (2e9 - age, 2e9 - age))
    sweep_partials(tmp_path, 200)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old"}
    os.utime(tmp_path / "old", (1e9, 1e9))
    sweep_partials(tmp_path, 200)
    assert {path.name for path in tmp_path.iterdir()} == {"new"}

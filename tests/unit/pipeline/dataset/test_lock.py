from __future__ import annotations

import subprocess
import sys

import pytest

from infra.errors import DatasetError, StorageError
from infra.storage import open_storage
from pipeline.dataset.lock import writer_lock

HOLD = """
import sys, time
from infra.storage import open_storage
from pipeline.dataset.lock import writer_lock
with writer_lock(open_storage(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_until_the_first_is_gone_even_by_kill(tmp_path) -> None:
    """Bug caught: a lock file that survives kill -9 and blocks every later night."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "d")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        storage = open_storage(str(tmp_path / "d"))
        with pytest.raises(DatasetError, match="another ingest"), writer_lock(storage):
            pass
    finally:
        holder.kill()
        holder.wait()
    (tmp_path / "d" / "shards").mkdir()
    (tmp_path / "d" / "shards" / ".tmp-orphan").write_bytes(b"half a shard")
    with writer_lock(storage):
        assert not (tmp_path / "d" / "shards" / ".tmp-orphan").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path) -> None:
    """Bug caught: a traceback for a dataset path below a file."""
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(StorageError, match="cannot write the dataset folder"),
        writer_lock(open_storage(str(tmp_path / "file" / "d"))),
    ):
        pass

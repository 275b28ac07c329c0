from __future__ import annotations

import errno
import fcntl
import subprocess
import sys

import pytest

from infra.errors import ConfigError, DatasetError, StorageError
from infra.storage import open_storage
from pipeline.dataset.lock import refuse_other_things, writer_lock

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
    (tmp_path / "d" / "notes").mkdir()
    (tmp_path / "d" / "notes" / ".tmp-draft").write_bytes(b"somebody's")
    with writer_lock(storage):
        assert not (tmp_path / "d" / "shards" / ".tmp-orphan").exists()
        assert (tmp_path / "d" / "notes" / ".tmp-draft").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path) -> None:
    """Bug caught: a traceback for a dataset path below a file."""
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(StorageError, match="cannot write the dataset folder"),
        writer_lock(open_storage(str(tmp_path / "file" / "d"))),
    ):
        pass


def test_what_goes_wrong_under_the_lock_is_not_told_as_another_writer(tmp_path) -> None:
    """Catches a full process table or a pipe that would block, told as "another ingest writes"."""
    with pytest.raises(BlockingIOError), writer_lock(open_storage(str(tmp_path / "d"))):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    with writer_lock(open_storage(str(tmp_path / "d"))):
        pass


def test_a_file_system_without_locks_is_one_sentence(tmp_path, monkeypatch) -> None:
    """Catches a traceback on a share that is mounted without locks."""

    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(StorageError, match=r"grants no lock \(No locks available\).*mount it with locks"),
        writer_lock(open_storage(str(tmp_path / "d"))),
    ):
        pass


def test_a_dataset_or_what_a_killed_first_ingest_left_is_no_other_thing(small, builder, tmp_path) -> None:
    """Catches a first ingest that cannot go on after a kill, or a dataset beside which a person put a note."""
    (tmp_path / "dataset" / "note.txt").write_text("of a person")
    refuse_other_things(builder.storage)  # it has a version
    new = open_storage(str(tmp_path / "new"))
    refuse_other_things(new)
    (tmp_path / "new" / "lost+found").mkdir(parents=True)
    new.write("removed.json", b"carried over from another dataset")
    refuse_other_things(new)
    with writer_lock(new):
        pass
    new.write("plan.json", b"{}")
    refuse_other_things(new)


def test_a_bucket_that_holds_other_things_is_refused_and_a_killed_first_ingest_goes_on(s3_uri) -> None:
    """Catches a prefix of somebody else's objects that is swept, and staged bytes that block the next attempt."""
    bucket = open_storage(s3_uri)
    refuse_other_things(bucket)
    for key in (
        "staged/" + "ab" * 32,
        "seen/places-0123456789abcdef.parquet",
        "plan.json",
        "shards/" + "ab" * 8 + ".tar",
    ):
        bucket.write(key, b"x")
        refuse_other_things(bucket)
    bucket.write("work/precious.txt", b"x")
    with pytest.raises(ConfigError, match=r"holds other things \(work/precious\.txt\)"):
        refuse_other_things(bucket)

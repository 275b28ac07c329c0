from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from infra.errors import CorruptShardError, StorageError
from infra.storage import open_storage
from pipeline.dataset.tar import StoredTar, TarReader, TarWriter, unpack


def _write(path: Path, members: dict[str, bytes]) -> list[int]:
    with TarWriter(path) as tar:
        offsets = []
        for name, data in members.items():
            offsets.append(tar.offset)
            tar.add(name, data)
        return [*offsets, tar.offset]


MEMBERS = {"a.json": b"{}", "a.mp4": bytes(700), "b.json": b""}


def test_equal_members_give_equal_bytes_whatever_the_clock_and_the_umask(tmp_path: Path) -> None:
    """Bug caught: mtime or owner in the header, which makes every retry another file."""
    _write(tmp_path / "one.tar", MEMBERS)
    _write(tmp_path / "two.tar", MEMBERS)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert {(info.mtime, info.uid, info.gid, info.uname, info.mode) for info in tar} == {(0, 0, 0, "", 0o644)}


def test_a_byte_range_between_two_offsets_unpacks_to_its_members(tmp_path: Path) -> None:
    """Bug caught: offsets that point behind the header or leave out the padding."""
    start, _, end, _ = _write(tmp_path / "x.tar", MEMBERS)
    fragment = (tmp_path / "x.tar").read_bytes()[start:end]
    assert unpack(fragment) == {"a.json": b"{}", "a.mp4": bytes(700)}
    for wrong in (fragment[:600], b"no tar at all" * 100):
        with pytest.raises(CorruptShardError):
            unpack(wrong)


def test_a_stored_tar_gives_members_offsets_and_the_digest_of_all_its_bytes(tmp_path: Path) -> None:
    """Bug caught: a digest over the members alone, which misses what is appended after the end mark."""
    offsets = _write(tmp_path / "x.tar", MEMBERS)
    with (tmp_path / "x.tar").open("ab") as file:
        file.write(b"appended" * 4096)
    tar = StoredTar(open_storage(str(tmp_path)), "x.tar")
    found = [(info.name, info.offset, data) for info, data in tar.members()]
    assert found == [(name, offset, data) for (name, data), offset in zip(MEMBERS.items(), offsets[:-1], strict=True)]
    assert tar.digest() == hashlib.sha256((tmp_path / "x.tar").read_bytes()).hexdigest()


def test_a_truncated_tar_is_corrupt_and_not_merely_shorter(tmp_path: Path) -> None:
    """Bug caught: a reader that takes the end of the file for the end of the archive."""
    _write(tmp_path / "x.tar", MEMBERS)
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: 512 + 512 + 512 + 300])
    with pytest.raises(CorruptShardError):
        list(StoredTar(open_storage(str(tmp_path)), "x.tar").members())
    with pytest.raises(CorruptShardError), TarReader(tmp_path / "x.tar") as tar:
        tar.read("a.mp4")


def test_a_link_in_a_tar_is_refused(tmp_path: Path) -> None:
    """Bug caught: following a member that points at a file outside."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("a.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info, io.BytesIO())
    with pytest.raises(CorruptShardError, match="no plain file"):
        TarReader(tmp_path / "x.tar")


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    """Bug caught: a full disk counted as the fault of the video at hand, so that all later ones become rejects."""
    with pytest.raises(StorageError, match="cannot write"), TarWriter(Path("/dev/full")) as tar:
        tar.add("a", bytes(1 << 20))
    with pytest.raises(StorageError, match="cannot write"):
        TarWriter(tmp_path / "absent" / "x.tar")

"""Damaged shards are found before ranks start, within the bytes that may be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import CorruptShardError, StorageError
from model.train.shards import check_shards
from pipeline.dataset.reader import open_dataset
from tests.support.clip_dataset import write_clip_dataset


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """The only shard of a dataset."""
    write_clip_dataset(tmp_path / "dataset", [{"anna": [36]}])
    (found,) = (tmp_path / "dataset" / "shards").iterdir()
    return found


def check(shard: Path, digest_bytes: int) -> None:
    check_shards(open_dataset(str(shard.parent.parent)), digest_bytes)


def test_whole_shards_pass(shard):
    check(shard, 10**9)


def test_a_changed_byte_is_found_where_digests_may_be_read(shard):
    """Catches a check of sizes alone, and one that reads a whole archive before a run may start."""
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CorruptShardError, match=f"{shard.name} has sha256 .*restore it"):
        check(shard, 10**9)
    check(shard, 100)


def test_a_shard_cut_short_or_gone_is_found_by_its_size(shard):
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(CorruptShardError, match=r"bytes and version 1 lists"):
        check(shard, 0)
    shard.unlink()
    with pytest.raises(StorageError, match=shard.name):
        check(shard, 0)

from __future__ import annotations

import pickle

import numpy as np
import pytest

from pipeline.dataset.units import ShardEntry, Units


def _entry(number: int, **changes: object) -> ShardEntry:
    digests = {
        name: f"{number:062x}{i:02x}" for i, name in enumerate(("tar_sha256", "manifest_sha256", "videos_sha256"))
    }
    counts = {"tar_bytes": 5 << 30, "clips": 3, "frames": 90, "videos": 2, "pretrain": {"train": 2, "val": 1}}
    return ShardEntry(**{"unit": f"u{number}", **digests, **counts, **changes})


ENTRIES = [
    _entry(0),
    _entry(1, tar_sha256=None, tar_bytes=0, clips=0, frames=0, pretrain={}),
    _entry(2, pretrain={"test": 3}),
]


def test_units_are_a_sequence_of_the_entries_that_they_were_made_of() -> None:
    """Bug caught: a field lost in a column; a reject's absent shard turned into an empty digest; rows off by one."""
    units = Units.of(ENTRIES)
    assert list(units) == ENTRIES == [units[0], units[1], units[-1]]
    assert list(units[-2:]) == ENTRIES[-2:]
    assert list(units[:1].extended(ENTRIES[1:])) == ENTRIES
    assert units.find("u2") == ENTRIES[2]
    assert units.find("u3") is None
    assert units.column("tar_sha256") == [entry.tar_sha256 for entry in ENTRIES]
    assert [units.name(row) for row in range(3)] == units.column("unit") == ["u0", "u1", "u2"]
    assert list(Units.of([])) == []
    with pytest.raises(IndexError):
        units[3]


def test_a_unit_is_found_wherever_it_stands() -> None:
    """Bug caught: the row of another unit, where units do not stand in the order of their names; the last one lost."""
    units = Units.of(_entry(number) for number in (7, 3, 12, 5)).extended([_entry(number) for number in (99, 1)])
    for row in range(6):
        assert units.find(units.name(row)) == units[row]
    assert [units.find(name) for name in ("", "u", "u2", "v", "ü")] == [None] * 5
    assert pickle.loads(pickle.dumps(units)).find("u12") == units[2]
    assert Units.of([]).find("u0") is None


def test_numbers_are_columns() -> None:
    """Bug caught: a shard of more than 2 GB whose size wraps; clips counted for the wrong split."""
    units = Units.of(ENTRIES)
    assert units.numbers("tar_bytes").tolist() == [5 << 30, 0, 5 << 30]
    assert units.numbers("clips").dtype == np.int64
    assert {split: units.pretrain(split).tolist() for split in ("train", "test", "none")} == {
        "train": [2, 0, 0], "test": [0, 0, 3], "none": [0, 0, 0],
    }  # fmt: skip
    with pytest.raises(ValueError, match="dev"):
        Units.of([_entry(0, pretrain={"dev": 1})])


def test_bytes_are_a_function_of_the_units() -> None:
    """Bug caught: a night that is run again and names another table, since tables were joined in other pieces."""
    units = Units.of(ENTRIES)
    joined = Units.of(ENTRIES[:1]).extended(ENTRIES[1:2]).extended(ENTRIES[2:])
    assert joined.to_bytes() == units.to_bytes() == Units.from_bytes(units.to_bytes()).to_bytes()
    assert Units.from_bytes(units.to_bytes()) == units == pickle.loads(pickle.dumps(units)) != units[:2]
    with pytest.raises((ValueError, OSError)):
        Units.from_bytes(b"PAR1")

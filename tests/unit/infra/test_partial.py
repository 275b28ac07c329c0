"""Files that are being fetched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.partial import Deadline, Partial, sweep_partials


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

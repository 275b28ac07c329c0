"""Files that are being fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.partial import Deadline, Partial


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

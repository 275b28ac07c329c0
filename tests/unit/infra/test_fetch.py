"""Files are known by their digest, wherever they come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from infra.errors import WeightsError
from infra.fetch import fetch_file


def test_the_first_source_with_the_right_bytes_is_taken(tmp_path: Path) -> None:
    wrong, right = tmp_path / "wrong", tmp_path / "right"
    for folder, data in ((wrong, b"tampered"), (right, b"weights")):
        folder.mkdir()
        (folder / "w.pth").write_bytes(data)
    digest = hashlib.sha256(b"weights").hexdigest()
    got = fetch_file("w.pth", digest, [str(tmp_path / "absent"), str(wrong), str(right)], tmp_path / "into")
    assert got.read_bytes() == b"weights"
    assert fetch_file("w.pth", digest, [], tmp_path / "into") == got


def test_wrong_bytes_never_get_the_final_name_and_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"tampered")
    with pytest.raises(WeightsError, match="name that folder"):
        fetch_file("w.pth", "0" * 64, [str(tmp_path)], tmp_path / "into")
    assert not list((tmp_path / "into").iterdir())

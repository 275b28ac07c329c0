"""Files are known by their digest, wherever they come from."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.errors import WeightsError
from infra.fetch import fetch_file
from tests.support.web_server import Page, web_server


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


@pytest.mark.parametrize("slow", [b"weights" * 500, b"tampers" * 500])
def test_two_fetches_of_one_file_do_not_write_into_each_others(tmp_path: Path, slow: bytes) -> None:
    """Bug caught: a file that was checked, and then written to under its final name by another process."""
    right, into = b"weights" * 500, tmp_path / "into"
    digest = hashlib.sha256(right).hexdigest()
    with web_server() as server, ThreadPoolExecutor() as pool:
        server.pages = {"/slow/w.pth": Page(slow, stall_s=0.3), "/quick/w.pth": Page(right)}
        first = pool.submit(fetch_file, "w.pth", digest, [f"{server.url}/slow"], into)
        while not server.sent["/slow/w.pth"]:
            time.sleep(0.01)
        assert fetch_file("w.pth", digest, [f"{server.url}/quick"], into).read_bytes() == right
        assert not first.done()
        if slow == right:
            assert first.result() == into / "w.pth"
        else:
            with pytest.raises(WeightsError, match="sha256 is"):
                first.result()
    assert (into / "w.pth").read_bytes() == right
    assert [path.name for path in into.iterdir()] == ["w.pth"]


def test_a_file_that_broke_off_leaves_nothing(tmp_path: Path) -> None:
    """Bug caught: gigabytes of weights in the making that nobody goes on with and nobody deletes."""
    with web_server() as server:
        server.pages = {"/w.pth": Page(bytes(3000), break_after=1000, breaks=1)}
        with pytest.raises(WeightsError, match="stated length"):
            fetch_file("w.pth", None, [server.url], tmp_path / "into")
    assert not list((tmp_path / "into").iterdir())


def test_what_is_fetched_may_be_read_by_whom_the_machine_lets_read(tmp_path: Path) -> None:
    """Bug caught: weights in a shared folder that only the user who fetched them can read."""
    (tmp_path / "w.pth").write_bytes(b"weights")
    before = os.umask(0o027)
    try:
        got = fetch_file("w.pth", None, [str(tmp_path)], tmp_path / "into")
    finally:
        os.umask(before)
    assert got.stat().st_mode & 0o777 == 0o640

"""One conformance test for both stores: a folder, and S3 over real HTTP."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from infra.download import FetchLimits
from infra.errors import ConfigError, StorageError
from infra.s3 import s3_client
from infra.storage import Storage, open_storage


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(str(tmp_path / "store"))
    return open_storage(f"s3://{request.getfixturevalue('bucket')}/some/prefix")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """The answers of every bucket, in place of the network."""
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    monkeypatch.setattr("infra.s3.s3_client", lambda: client)
    with Stubber(client) as answers:
        yield answers


def test_what_is_written_is_read_whole_and_by_range(store: Storage) -> None:
    store.write("a/b.bin", b"0123456789")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read_range("a/b.bin", 3, 4) == b"3456"
    assert store.size("a/b.bin") == 10
    store.write("a/b.bin", b"new")
    assert store.read("a/b.bin") == b"new"


def test_a_range_past_the_end_is_an_error_and_not_fewer_bytes(store: Storage) -> None:
    store.write("a", b"012")
    with pytest.raises(StorageError):
        store.read_range("a", 1, 5)


def test_only_the_first_put_if_absent_wins(store: Storage) -> None:
    assert store.put_if_absent("v/1", b"first")
    assert not store.put_if_absent("v/1", b"second")
    assert store.read("v/1") == b"first"


def test_of_callers_who_all_saw_nothing_one_wins(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: a look and then a plain write, with which several ingests publish the same version."""
    client, all_here, one_by_one = s3_client(), threading.Barrier(4), threading.Lock()

    def begin(**_: object) -> None:
        all_here.wait(10)
        one_by_one.acquire()  # moto itself looks and then writes, without a lock

    client.meta.events.register("before-call.s3.PutObject", begin)
    client.meta.events.register("after-call.s3.PutObject", lambda **_: one_by_one.release())
    monkeypatch.setattr("infra.s3.s3_client", lambda: client)
    store = open_storage(f"s3://{bucket}/some/prefix")
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda number: store.put_if_absent("v/1", b"%d" % number), range(4)))
    assert sorted(won) == [False, False, False, True]
    assert store.read("v/1") == b"%d" % won.index(True)


def test_listing_is_sorted_by_prefix_and_deleting_twice_is_no_error(store: Storage) -> None:
    for key in ("x/2", "x/1", "xy", "z"):
        store.write(key, b"")
    assert list(store.list("x/")) == ["x/1", "x/2"]
    assert list(store.list("x")) == ["x/1", "x/2", "xy"]
    store.delete("xy")
    store.delete("xy")
    assert not store.exists("xy")
    assert list(store.list()) == ["x/1", "x/2", "z"]


def test_a_listing_goes_on_after_its_first_page(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: a dataset that ends at its thousandth object, as many as one answer holds."""
    client = s3_client()
    client.meta.events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: params | {"MaxKeys": 2})
    monkeypatch.setattr("infra.s3.s3_client", lambda: client)
    store = open_storage(f"s3://{bucket}/some/prefix")
    for number in range(5):
        store.write(str(number), b"")
    assert list(store.list()) == ["0", "1", "2", "3", "4"]


def test_what_a_killed_write_left_is_no_key(tmp_path: Path) -> None:
    """Bug caught: half an object taken for a shard or a version."""
    store = open_storage(str(tmp_path))
    store.write("shards/a", b"")
    (tmp_path / "shards" / ".tmp-abc").write_bytes(b"half")
    assert list(store.list()) == list(store.list("shards/")) == ["shards/a"]


def test_files_go_up_and_come_down(store: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"bytes")
    store.upload(source, "deep/key")
    store.download("deep/key", target)
    assert target.read_bytes() == b"bytes"


def test_a_download_that_breaks_off_leaves_nothing(
    tmp_path: Path, stub: Stubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: half a shard under its final name, which the next reader takes for whole."""
    monkeypatch.setattr("infra.s3.PATIENCE", FetchLimits(attempts=2, backoff_s=0.001))
    body = StreamingBody(BytesIO(b"half"), content_length=8)
    stub.add_response("get_object", {"Body": body})
    stub.add_client_error("get_object", "AccessDenied", http_status_code=403)
    with pytest.raises(StorageError, match=r"cannot read s3://bucket/a\.tar to .*a\.tar: AccessDenied"):
        open_storage("s3://bucket").download("a.tar", tmp_path / "a.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_local_file_that_cannot_be_had_is_a_storage_error_that_names_it(store: Storage, tmp_path: Path) -> None:
    """Catches an OSError as a traceback, and a full disk that is called a passing failure of the store."""
    store.write("a", b"bytes")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot read .*a"):
        store.download("a", tmp_path / "file" / "below")
    with pytest.raises(StorageError, match=r"cannot write .*: No such file or directory"):
        store.upload(tmp_path / "absent", "b")
    assert not store.exists("b")


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_a_key_that_leaves_the_store_is_refused(store: Storage, key: str) -> None:
    with pytest.raises(StorageError):
        store.write(key, b"")


def test_a_missing_key_is_a_storage_error_that_names_it(store: Storage) -> None:
    with pytest.raises(StorageError, match="absent"):
        store.read("absent")


def test_an_object_that_may_not_be_looked_at_is_not_absent(stub: Stubber) -> None:
    """Bug caught: an access key that ran out taken for an empty bucket, in which a dataset begins anew."""
    stub.add_client_error("head_object", "Forbidden", http_status_code=403)
    with pytest.raises(StorageError, match="cannot read s3://bucket/a"):
        open_storage("s3://bucket").exists("a")


@pytest.mark.parametrize("status", [400, 403, 416, 501])
def test_what_a_bucket_refuses_is_not_asked_again(stub: Stubber, status: int) -> None:
    """Bug caught: a wrong access key that is waited for and called passing, so that whole flows are run again."""
    stub.add_client_error("get_object", "Refused", http_status_code=status)  # asked again, the stub has no answer
    with pytest.raises(StorageError, match="Refused"):
        open_storage("s3://bucket").read("a")
    stub.assert_no_pending_responses()


def test_what_a_bucket_refuses_of_an_upload_is_not_asked_again(stub: Stubber, tmp_path: Path) -> None:
    """Catches boto3's S3UploadFailedError, which hides that the store said no."""
    (tmp_path / "file").write_bytes(b"bytes")
    stub.add_client_error("put_object", "AccessDenied", http_status_code=403)
    with pytest.raises(StorageError, match=r"cannot write s3://bucket/a from .*file: AccessDenied"):
        open_storage("s3://bucket").upload(tmp_path / "file", "a")


@pytest.mark.parametrize(("status", "code"), [(400, "RequestTimeout"), (409, "ConditionalRequestConflict"), (429, "")])
def test_a_refusal_that_may_pass_is_asked_again(
    stub: Stubber, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    """Catches an upload whose connection stalled once, and writers at the same moment, taken for failures for good."""
    monkeypatch.setattr("infra.s3.PATIENCE", FetchLimits(attempts=2, backoff_s=0.001))
    stub.add_client_error("put_object", code, http_status_code=status)
    stub.add_response("put_object", {})
    open_storage("s3://bucket").write("a", b"bytes")


def test_a_store_travels_to_workers(store: Storage) -> None:
    store.write("k", b"v")
    assert pickle.loads(pickle.dumps(store)).read("k") == b"v"


def test_an_unknown_scheme_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="s3://"):
        open_storage("ftp://host/x")

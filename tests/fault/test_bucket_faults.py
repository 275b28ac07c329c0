"""Each operation of a bucket over each fault of the way to it: done after one fault, one sentence after many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.download import FetchLimits
from infra.errors import ConfigError, StorageError, TooLargeError, TransientError
from infra.partial import Deadline
from infra.s3 import fetch_object, list_objects, s3_client
from infra.storage import Storage, open_storage
from tests.support.faulty_proxy import Fault, FaultyProxy

DATA = bytes(range(256)) * 64
ATTEMPTS = 3


@pytest.fixture
def proxy(bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    host, _, port = s3_server.removeprefix("http://").partition(":")
    proxy = FaultyProxy(host, int(port))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr("infra.s3.PATIENCE", FetchLimits(attempts=ATTEMPTS, backoff_s=0.001))
    yield proxy
    proxy.close()


@pytest.fixture
def store(bucket: str, proxy: FaultyProxy) -> Storage:
    store = open_storage(f"s3://{bucket}/some/prefix")
    store.write("here", DATA)
    return store


def once(proxy: FaultyProxy, *faults: Fault) -> None:
    """Let the next requests meet these faults, one each, and those after them none."""
    left = list(faults)
    proxy.failed, proxy.fails = 0, lambda *_: left.pop(0) if left else None


def always(proxy: FaultyProxy, fault: Fault) -> None:
    proxy.failed, proxy.fails = 0, lambda *_: fault


def _written(store: Storage, folder: Path) -> bytes:
    store.write("new", DATA)
    return store.read("new")


def _created(store: Storage, folder: Path) -> tuple[bool, bytes]:
    return store.put_if_absent("new", DATA), store.read("new")


def _uploaded(store: Storage, folder: Path) -> bytes:
    (folder / "up").write_bytes(DATA)
    store.upload(folder / "up", "new")
    return store.read("new")


def _downloaded(store: Storage, folder: Path) -> bytes:
    store.download("here", folder / "down")
    return (folder / "down").read_bytes()


def _deleted(store: Storage, folder: Path) -> list[str]:
    store.delete("here")
    return list(store.list())


Operation = Callable[[Storage, Path], Any]
OPERATIONS: dict[str, tuple[Operation, Any]] = {
    "read": (lambda store, _: store.read("here"), DATA),
    "read_range": (lambda store, _: store.read_range("here", 100, 5000), DATA[100:5100]),
    "write": (_written, DATA),
    "put_if_absent": (_created, (True, DATA)),
    "upload": (_uploaded, DATA),
    "download": (_downloaded, DATA),
    "exists": (lambda store, _: (store.exists("here"), store.exists("absent")), (True, False)),
    "size": (lambda store, _: store.size("here"), len(DATA)),
    "modified": (lambda store, _: store.modified("here") > 1e9, True),
    "list": (lambda store, _: list(store.list()), ["here"]),
    "delete": (_deleted, []),
}
WITH_BODY = {"read", "read_range", "download", "list"}
"""Operations whose first answer has a body that can be cut."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_fault_that_passes_changes_nothing(store: Storage, proxy: FaultyProxy, tmp_path: Path, name: str) -> None:
    """Catches AttributeErrors for broken connections, cut bodies taken for whole, own objects taken for another's."""
    operation, expected = OPERATIONS[name]
    for fault in Fault:
        once(proxy)
        store.write("here", DATA)
        store.delete("new")
        once(proxy, fault)
        assert (fault, operation(store, tmp_path)) == (fault, expected)
        assert proxy.failed == 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_fault_that_stays_is_one_sentence_after_a_bounded_number_of_requests(
    store: Storage, proxy: FaultyProxy, tmp_path: Path, name: str
) -> None:
    """Catches botocore's errors that get through, retries of retries, and half a file left behind."""
    for fault in Fault:
        if fault is Fault.CUT and name not in WITH_BODY:
            continue
        always(proxy, fault)
        with pytest.raises(TransientError, match=rf"cannot \w+ s3://.*after {ATTEMPTS} attempts") as told:
            OPERATIONS[name][0](store, tmp_path)
        assert "\n" not in str(told.value)
        assert (fault, proxy.failed) == (fault, ATTEMPTS)
        assert not [path for path in tmp_path.iterdir() if path.name != "up"]


def test_an_object_that_another_created_is_not_ours_however_often_we_ask(store: Storage, proxy: FaultyProxy) -> None:
    """Catches a lost race taken for a lost answer: a version that overwrites nothing and is reported as published."""
    store.write("v/1", b"theirs")
    for fault in Fault:
        once(proxy, fault)
        assert not store.put_if_absent("v/1", b"ours")
    assert store.read("v/1") == b"theirs"


def _parts(bucket: str) -> list[Any]:
    return boto3.client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads", [])


def test_a_large_file_whose_part_fails_leaves_no_parts(
    store: Storage, proxy: FaultyProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches parts that nobody sees and everybody pays for, and a large file that one fault spoils."""
    monkeypatch.setattr("infra.storage.ONE_PUT_BYTES", 5 << 20)
    monkeypatch.setattr("infra.storage.PART_BYTES", 5 << 20)
    (tmp_path / "large").write_bytes(bytes(6 << 20))
    proxy.fails = lambda method, *_: Fault.CLOSED if method == "PUT" else None
    with pytest.raises(TransientError, match=r"cannot write s3://.*from .*large"):
        store.upload(tmp_path / "large", "large")
    assert _parts(bucket) == []
    for fault in Fault:
        left = [fault]
        proxy.fails = lambda method, *_, left=left: left.pop() if method == "PUT" and left else None
        store.upload(tmp_path / "large", "large")
        assert (store.size("large"), _parts(bucket)) == (6 << 20, [])


def test_a_bucket_as_a_source_is_listed_over_faults(store: Storage, proxy: FaultyProxy, bucket: str) -> None:
    """Catches a listing that ends where its first request fails."""
    for fault in Fault:
        once(proxy, fault)
        assert [found.key for found in list_objects(f"s3://{bucket}")] == ["some/prefix/here"]
    always(proxy, Fault.CUT)
    with pytest.raises(TransientError, match=f"cannot list s3://{bucket}/"):
        list(list_objects(f"s3://{bucket}"))
    once(proxy)
    with pytest.raises(ConfigError, match="NoSuchBucket"):
        list(list_objects("s3://absent"))


def test_an_object_is_fetched_over_faults_and_not_more_often_than_allowed(
    store: Storage, proxy: FaultyProxy, bucket: str, tmp_path: Path
) -> None:
    """Catches attempts of the client within attempts of the fetch, and a cut body that begins anew."""
    limits = FetchLimits(attempts=4, backoff_s=0.001)
    (found,) = list_objects(f"s3://{bucket}")

    def fetch(limits: FetchLimits, name: str) -> bytes:
        place = f"s3://{bucket}/{found.key}"
        fetched = fetch_object(s3_client(limits), place, found.etag, tmp_path / name, limits, Deadline(60.0))
        return fetched.path.read_bytes()

    once(proxy, Fault.BUSY, Fault.CLOSED, Fault.CUT)
    assert fetch(limits, "part") == DATA
    for fault in (Fault.BUSY, Fault.CLOSED, Fault.LOST):
        always(proxy, fault)
        with pytest.raises(TransientError):
            fetch(limits, fault.name)
        assert proxy.failed == 4


def test_a_fetch_that_is_given_up_closes_its_connection(
    store: Storage, proxy: FaultyProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches bodies left open: with ten too large objects, none of the client's ten connections is left."""
    from botocore.response import StreamingBody

    closed = []
    close = StreamingBody.close
    monkeypatch.setattr(StreamingBody, "close", lambda body: (closed.append(body), close(body)))
    store.write("large", bytes(1_000_001))
    limits = FetchLimits(max_mb=1)
    place = f"s3://{bucket}/some/prefix/large"
    with pytest.raises(TooLargeError):
        fetch_object(s3_client(limits), place, None, tmp_path / "part", limits, Deadline(60.0))
    assert closed


def test_without_keys_a_bucket_is_not_asked_seven_times(
    store: Storage, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catches half a minute of retries for a variable that is not set."""
    monkeypatch.setattr("infra.s3.PATIENCE", FetchLimits(attempts=2, backoff_s=60.0))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # keeps keys
    with pytest.raises(StorageError, match=r"cannot read s3://.*Unable to locate credentials"):
        open_storage(store.uri).read("here")


def test_settings_that_make_no_sense_are_one_sentence(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches botocore's ValueError and ProfileNotFound as tracebacks."""
    with monkeypatch.context() as patch:
        patch.setenv("AWS_PROFILE", "absent")
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        with pytest.raises(ConfigError, match=r"absent.*see AWS_ENDPOINT_URL"):
            open_storage(store.uri).read("here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no address")
    with pytest.raises(ConfigError, match=r"no address.*see AWS_ENDPOINT_URL"):
        open_storage(store.uri).read("here")

"""One small interface over a folder or an S3 prefix: whole objects appear at once or not at all.

URIs are ``str`` and not ``Path``, since ``Path`` collapses ``s3://`` to ``s3:/``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from infra.errors import ConfigError, StorageError

T = TypeVar("T")

ONE_PUT_BYTES = 4 << 30
"""Largest file that goes to S3 in one request (S3 takes 5 GiB): none of its parts can be left there."""
PART_BYTES = 1 << 30
"""Parts of a larger file; few, since a part that fails makes all of them be sent again."""
_CHUNK = 1 << 20


class Storage(Protocol):
    """Keyed bytes. Keys are relative posix paths; absolute ones and ``..`` are refused with StorageError.

    A missing key raises StorageError (``exists`` asks), as does a local disk that refuses; a network's failure that
    may pass raises TransientError. All objects pickle, so that workers can carry them.
    """

    uri: str

    def read(self, key: str) -> bytes:
        """Return the whole object."""

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``; fewer bytes there raise StorageError."""

    def write(self, key: str, data: bytes) -> None:
        """Replace the object atomically."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object; return False, and change nothing, when it exists. Exactly one of many callers wins.

        Several may where all bring the same bytes and an answer was lost.
        """

    def upload(self, local: Path, key: str) -> None:
        """Publish a local file as an object, atomically."""

    def download(self, key: str, local: Path) -> None:
        """Fetch an object to a local file, which appears whole or not at all."""

    def exists(self, key: str) -> bool:
        """Tell whether the object exists."""

    def size(self, key: str) -> int:
        """Return the object's size in bytes."""

    def modified(self, key: str) -> float:
        """Return when the object was last written, in seconds since 1970, by the store's clock."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with ``prefix``, sorted."""

    def delete(self, key: str) -> None:
        """Delete the object; an absent one is no error."""


def open_storage(uri: str) -> Storage:
    """Return the store for a folder path or ``s3://bucket/prefix``; nothing is created or contacted yet."""
    if uri.startswith("s3://"):
        return S3Storage(uri)
    if "://" in uri:
        raise ConfigError(f"store {uri!r}: only folders and s3:// are known; give a path or s3://bucket/prefix")
    return LocalStorage(uri)


def checked_key(key: str) -> str:
    """Return ``key`` when it stays inside its store; raise StorageError otherwise."""
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts or "\\" in key or "\0" in key:
        raise StorageError(f"key {key!r} would leave its store; keys are relative and have no '..'")
    return key


class LocalStorage:
    """A folder. Writes go to a temporary name in the same folder and are renamed after fsync."""

    def __init__(self, uri: str) -> None:
        self.uri = str(Path(uri).absolute())
        self._root = Path(self.uri)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def local_path(self, key: str) -> str:
        """Return where the object lies, for readers that open files; do not write there."""
        return str(self._path(key))

    def read(self, key: str) -> bytes:
        """See Storage."""
        return _local(lambda: self._path(key).read_bytes(), "read", self._path(key))

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """See Storage."""

        def work() -> bytes:
            with self._path(key).open("rb") as file:
                return os.pread(file.fileno(), size, offset)

        data = _local(work, "read", self._path(key))
        if len(data) != size:
            raise StorageError(f"{self._path(key)} ends before byte {offset + size}; it is truncated")
        return data

    def write(self, key: str, data: bytes) -> None:
        """See Storage."""

        def work() -> None:
            with _temporary(self._path(key)) as temporary:
                _write_synced(temporary, data)
                temporary.replace(self._path(key))

        _local(work, "write", self._path(key))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See Storage. A hard link decides who wins."""

        def work() -> bool:
            with _temporary(self._path(key)) as temporary:
                _write_synced(temporary, data)
                try:
                    os.link(temporary, self._path(key))
                except FileExistsError:
                    return False
                return True

        return _local(work, "create", self._path(key))

    def upload(self, local: Path, key: str) -> None:
        """See Storage."""

        def work() -> None:
            with _temporary(self._path(key)) as temporary:
                shutil.copyfile(local, temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(self._path(key))

        _local(work, "write", self._path(key))

    def download(self, key: str, local: Path) -> None:
        """See Storage."""

        def work() -> None:
            with _temporary(local) as temporary:
                shutil.copyfile(self._path(key), temporary)
                temporary.replace(local)

        _local(work, "read", self._path(key))

    def exists(self, key: str) -> bool:
        """See Storage."""
        return _local(lambda: self._path(key).is_file(), "read", self._path(key))

    def size(self, key: str) -> int:
        """See Storage."""
        return _local(lambda: self._path(key).stat().st_size, "read", self._path(key))

    def modified(self, key: str) -> float:
        """See Storage."""
        return _local(lambda: self._path(key).stat().st_mtime, "read", self._path(key))

    def list(self, prefix: str = "") -> Iterator[str]:
        """See Storage; temporary names are not keys."""
        start = self._root / prefix if prefix.endswith("/") or not prefix else (self._root / prefix).parent
        keys = (
            path.relative_to(self._root).as_posix()
            for path in start.rglob("*")
            if path.is_file() and not path.name.startswith(".tmp-")
        )
        yield from sorted(key for key in keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """See Storage."""
        _local(lambda: self._path(key).unlink(missing_ok=True), "delete", self._path(key))


class S3Storage:
    """A bucket prefix, through boto3.

    Endpoint, region, keys and proxies come from the usual AWS settings (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``,
    …). Requests that fail in a way that may pass are repeated by ``infra.s3.persistently``, and nowhere else.
    """

    def __init__(self, uri: str) -> None:
        from infra.s3 import split_s3

        self.uri = uri.rstrip("/")
        self._bucket, self._prefix = split_s3(self.uri)
        self._client_cache: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client_cache": None}

    @property
    def _client(self) -> Any:
        if self._client_cache is None:
            from infra.s3 import s3_client

            self._client_cache = s3_client()
        return self._client_cache

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{checked_key(key)}" if self._prefix else checked_key(key)

    def _where(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._key(key)}"

    def read(self, key: str) -> bytes:
        """See Storage."""
        return self._call(key, "read", _body)

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """See Storage."""
        span = {"Range": f"bytes={offset}-{offset + size - 1}"}
        data: bytes = self._call(key, "read", lambda c, at: _body(c, at | span))
        if len(data) != size:
            raise StorageError(f"{self._where(key)} ends before byte {offset + size}; it is truncated")
        return data

    def write(self, key: str, data: bytes) -> None:
        """See Storage."""
        self._call(key, "write", lambda c, at: c.put_object(**at, Body=data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See Storage. A conditional put (``If-None-Match: *``) decides who wins.

        One whose answer is lost is sent again and refused, though the object is ours: then its bytes tell.
        """
        attempts = 0

        def work(client: Any, at: dict[str, str]) -> bool:
            nonlocal attempts
            attempts += 1
            if _unless(412, lambda: client.put_object(**at, Body=data, IfNoneMatch="*")):
                return True
            return attempts > 1 and _body(client, at) == data

        return self._call(key, "create", work)

    def upload(self, local: Path, key: str) -> None:
        """See Storage."""

        def work(client: Any, at: dict[str, str]) -> None:
            from boto3.exceptions import S3UploadFailedError
            from boto3.s3.transfer import TransferConfig

            parts = TransferConfig(multipart_threshold=ONE_PUT_BYTES, multipart_chunksize=PART_BYTES)
            try:
                client.upload_file(str(local), at["Bucket"], at["Key"], Config=parts)
            except S3UploadFailedError as error:  # hides the store's answer
                raise error.__context__ or error from None

        self._call(key, "write", work, f" from {local}")

    def download(self, key: str, local: Path) -> None:
        """See Storage."""

        def work(client: Any, at: dict[str, str]) -> None:
            with _temporary(local) as temporary:
                with closing(client.get_object(**at)["Body"]) as body, temporary.open("wb") as file:
                    shutil.copyfileobj(body, file, _CHUNK)
                temporary.replace(local)

        self._call(key, "read", work, f" to {local}")

    def exists(self, key: str) -> bool:
        """See Storage."""
        return self._call(key, "read", lambda c, at: _unless(404, lambda: c.head_object(**at)))

    def size(self, key: str) -> int:
        """See Storage."""
        return int(self._call(key, "read", lambda c, at: c.head_object(**at)["ContentLength"]))

    def modified(self, key: str) -> float:
        """See Storage."""
        return float(self._call(key, "read", lambda c, at: c.head_object(**at)["LastModified"].timestamp()))

    def list(self, prefix: str = "") -> Iterator[str]:
        """See Storage."""
        from infra.s3 import listed

        base = f"{self._prefix}/" if self._prefix else ""
        yield from sorted(item["Key"][len(base) :] for item in listed(self._client, self._bucket, base + prefix))

    def delete(self, key: str) -> None:
        """See Storage."""
        self._call(key, "delete", lambda c, at: c.delete_object(**at))

    def _call(self, key: str, verb: str, work: Callable[[Any, dict[str, str]], T], local: str = "") -> T:
        from infra.s3 import persistently

        at = {"Bucket": self._bucket, "Key": self._key(key)}
        return persistently(lambda: work(self._client, at), f"{verb} {self._where(key)}{local}")


def _body(client: Any, asked: dict[str, str]) -> bytes:
    with closing(client.get_object(**asked)["Body"]) as body:
        return body.read()


def _unless(status: int, request: Callable[[], Any]) -> bool:
    """Tell whether a store does what it is asked; False where it answers ``status``."""
    from infra.s3 import status_of, store_errors

    try:
        request()
    except store_errors() as error:
        if status_of(error) == status:
            return False
        raise
    return True


def _local(work: Callable[[], T], verb: str, path: Path) -> T:
    try:
        return work()
    except OSError as error:
        raise StorageError(f"cannot {verb} {path}: {error.strerror or error}") from error


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


class _temporary:
    """A temporary name beside ``target``, gone afterwards whatever happened."""

    def __init__(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", dir=target.parent)
        os.close(handle)
        os.chmod(name, 0o644)
        self._path = Path(name)

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *exception: object) -> None:
        self._path.unlink(missing_ok=True)

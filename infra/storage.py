"""One small interface over a folder or an S3 prefix: whole objects appear at once or not at all.

URIs are ``str`` and not ``Path``, since ``Path`` collapses ``s3://`` to ``s3:/``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from infra.errors import ConfigError, StorageError, TransientError

T = TypeVar("T")

RETRIES = 4
"""Attempts for an S3 call that fails in a way that may pass."""


class Storage(Protocol):
    """Keyed bytes. Keys are relative posix paths; absolute ones and ``..`` are refused with StorageError.

    A missing key raises StorageError (``exists`` asks). All objects pickle, so that workers can carry them.
    """

    uri: str

    def read(self, key: str) -> bytes:
        """Return the whole object."""

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``; fewer bytes there raise StorageError."""

    def write(self, key: str, data: bytes) -> None:
        """Replace the object atomically."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object; return False, and change nothing, when it exists. Exactly one of many callers wins."""

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
        return self._path(key).is_file()

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
    …). Passing failures are retried a bounded number of times.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._bucket, _, self._prefix = self.uri.removeprefix("s3://").partition("/")
        if not self._bucket:
            raise ConfigError(f"store {uri!r} names no bucket; give s3://bucket/prefix")
        self._client_cache: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client_cache": None}

    @property
    def _client(self) -> Any:
        if self._client_cache is None:
            import boto3
            from botocore.config import Config

            self._client_cache = boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 3}))
        return self._client_cache

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{checked_key(key)}" if self._prefix else checked_key(key)

    def _where(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._key(key)}"

    def read(self, key: str) -> bytes:
        """See Storage."""
        return self._call(key, "read", lambda c, at: c.get_object(**at)["Body"].read())

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """See Storage."""
        span = f"bytes={offset}-{offset + size - 1}"
        data: bytes = self._call(key, "read", lambda c, at: c.get_object(**at, Range=span)["Body"].read())
        if len(data) != size:
            raise StorageError(f"{self._where(key)} ends before byte {offset + size}; it is truncated")
        return data

    def write(self, key: str, data: bytes) -> None:
        """See Storage."""
        self._call(key, "write", lambda c, at: c.put_object(**at, Body=data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See Storage. A conditional put (``If-None-Match: *``) decides who wins."""
        from botocore.exceptions import ClientError

        def work(client: Any, at: dict[str, str]) -> bool:
            try:
                client.put_object(**at, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if _status(error) == 412:
                    return False
                raise
            return True

        return self._call(key, "create", work)

    def upload(self, local: Path, key: str) -> None:
        """See Storage."""
        self._call(key, "write", lambda c, at: c.upload_file(str(local), at["Bucket"], at["Key"]))

    def download(self, key: str, local: Path) -> None:
        """See Storage."""

        def work(client: Any, at: dict[str, str]) -> None:
            with _temporary(local) as temporary:
                client.download_file(at["Bucket"], at["Key"], str(temporary))
                temporary.replace(local)

        self._call(key, "read", work)

    def exists(self, key: str) -> bool:
        """See Storage."""
        from botocore.exceptions import ClientError

        def work(client: Any, at: dict[str, str]) -> bool:
            try:
                client.head_object(**at)
            except ClientError as error:
                if _status(error) == 404:
                    return False
                raise
            return True

        return self._call(key, "read", work)

    def size(self, key: str) -> int:
        """See Storage."""
        return int(self._call(key, "read", lambda c, at: c.head_object(**at)["ContentLength"]))

    def modified(self, key: str) -> float:
        """See Storage."""
        return float(self._call(key, "read", lambda c, at: c.head_object(**at)["LastModified"].timestamp()))

    def list(self, prefix: str = "") -> Iterator[str]:
        """See Storage."""
        base = f"{self._prefix}/" if self._prefix else ""

        def pages(client: Any, at: dict[str, str]) -> list[str]:
            paginator = client.get_paginator("list_objects_v2")
            return [
                item["Key"][len(base) :]
                for page in paginator.paginate(Bucket=at["Bucket"], Prefix=base + prefix)
                for item in page.get("Contents", ())
            ]

        yield from sorted(self._call("list", "list", pages))

    def delete(self, key: str) -> None:
        """See Storage."""
        self._call(key, "delete", lambda c, at: c.delete_object(**at))

    def _call(self, key: str, verb: str, work: Callable[[Any, dict[str, str]], T]) -> T:
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        at = {"Bucket": self._bucket, "Key": self._key(key)}
        for attempt in range(RETRIES):
            try:
                return work(self._client, at)
            except (ClientError, BotoCoreError, S3UploadFailedError) as error:
                if _status(error) in (404, 400, 403, 412):
                    raise StorageError(f"cannot {verb} {self._where(key)}: {error}") from error
                if attempt == RETRIES - 1:
                    where = self._where(key)
                    raise TransientError(f"cannot {verb} {where} after {RETRIES} attempts: {error}") from error
                time.sleep(0.2 * 2**attempt)
        raise StorageError(f"cannot {verb} {self._where(key)}")  # not reached: the last attempt raises


def _status(error: Exception) -> int:
    response = getattr(error, "response", {})
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


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

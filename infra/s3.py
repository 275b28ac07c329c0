"""Objects of any S3-compatible store as a source: listed page by page, fetched in resumable streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.download import FetchLimits, Passing, attempted
from infra.errors import ConfigError, FetchError, TransientError
from infra.partial import Deadline, Fetched, Partial

_CHUNK = 1 << 20
_CONNECTIONS = 32
"""Kept open by a client: as many threads as any caller has."""


@dataclass(frozen=True, slots=True)
class S3Object:
    """One object as a listing tells of it: key, bytes, ETag (without quotes)."""

    key: str
    bytes: int
    etag: str


def s3_client(limits: FetchLimits | None = None) -> Any:
    """Return a boto3 client; endpoint, region, keys and proxies come from the usual AWS settings.

    Passing failures are retried a bounded number of times. With ``limits`` its timeouts hold. Threads may share it.
    """
    import boto3
    from botocore.config import Config

    timeouts = {} if limits is None else {"connect_timeout": limits.timeout_s, "read_timeout": limits.timeout_s}
    retries = {"mode": "standard", "max_attempts": 3}
    return boto3.client("s3", config=Config(retries=retries, max_pool_connections=_CONNECTIONS, **timeouts))


def split_s3(uri: str) -> tuple[str, str]:
    """Return (bucket, key or prefix) of ``s3://bucket/…``; ConfigError where there is no bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"{uri!r} names no bucket; give s3://bucket/prefix")
    return bucket, key


def list_objects(uri: str) -> Iterator[S3Object]:
    """Yield the object ``uri`` and those below ``uri/``, in the store's order (sorted by key's bytes), page by page.

    Raises:
        ConfigError: the bucket is absent or may not be listed.
        TransientError: the store does not answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, prefix = split_s3(uri)
    folder = prefix if not prefix or prefix.endswith("/") else prefix + "/"
    try:
        for page in s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                if item["Key"] == prefix or item["Key"].startswith(folder):
                    yield S3Object(item["Key"], int(item["Size"]), item.get("ETag", "").strip('"'))
    except ClientError as error:
        if _status(error) in (400, 401, 403, 404):
            raise ConfigError(f"source s3://{bucket}/{prefix} cannot be listed: {_said(error)}") from error
        raise TransientError(f"source s3://{bucket}/{prefix} cannot be listed now: {_said(error)}") from error
    except BotoCoreError as error:
        raise TransientError(f"source s3://{bucket}/{prefix} cannot be listed now: {error}") from error


def fetch_object(
    client: Any, uri: str, etag: str | None, path: Path, limits: FetchLimits, deadline: Deadline
) -> Fetched:
    """Fetch an object into ``path``, going on from the bytes that an earlier attempt left there.

    Args:
        client: of ``s3_client``.
        uri: ``s3://bucket/key``.
        etag: the listing's ETag; None takes whatever is there.
        path: the file in the making.
        limits: bounds and attempts.
        deadline: when it must be over.

    Raises:
        TooLargeError: it has more bytes than allowed.
        FetchError: it is not there, or may not be read.
        TransientError: it changed since it was listed, or the store fails in a way that may pass.
        StorageError: the local disk refuses.
    """
    bucket, key = split_s3(uri)
    with Partial(path, max_bytes=limits.max_mb * 1_000_000, deadline=deadline) as partial:
        return attempted(lambda: _attempt(client, bucket, key, etag, partial), limits, deadline)


def _attempt(client: Any, bucket: str, key: str, etag: str | None, partial: Partial) -> Fetched:
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        try:
            _go_on(client, bucket, key, etag, partial)
        except ClientError as error:
            if _status(error) != 416:
                raise
            _settle_end(client, bucket, key, etag, partial)
    except ClientError as error:
        status = _status(error)
        if status == 412:
            raise Passing("it changed since it was listed") from error
        if status >= 500 or status == 429 or status == 0:
            raise Passing(_said(error)) from error
        raise FetchError(_said(error)) from error
    except (BotoCoreError, HTTPClientError, OSError) as error:
        raise Passing(f"{type(error).__name__}: {error}") from error
    return partial.finish()


def _go_on(client: Any, bucket: str, key: str, etag: str | None, partial: Partial) -> None:
    """Fetch the bytes that ``partial`` lacks."""
    quoted = f'"{etag}"' if etag else None
    if not partial.size or partial.validator is None or partial.validator != quoted:
        partial.restart(quoted)
    asked = {"Bucket": bucket, "Key": key} | ({"IfMatch": quoted} if quoted else {})
    asked |= {"Range": f"bytes={partial.size}-"} if partial.size else {}
    answer = client.get_object(**asked)
    partial.expect(partial.size + int(answer["ContentLength"]))
    for chunk in answer["Body"].iter_chunks(_CHUNK):
        partial.write(chunk)


def _settle_end(client: Any, bucket: str, key: str, etag: str | None, partial: Partial) -> None:
    """No byte lies beyond those of ``partial``: it is whole, or it is of another version and starts anew."""
    head = client.head_object(Bucket=bucket, Key=key)
    if head["ETag"].strip('"') != etag or int(head["ContentLength"]) != partial.size:
        partial.restart(None)
        raise Passing("it changed while it was fetched")


def _status(error: Any) -> int:
    return int(getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _said(error: Any) -> str:
    told = getattr(error, "response", {}).get("Error", {})
    return f"{told.get('Code', type(error).__name__)}: {told.get('Message', '')}".strip(": ")

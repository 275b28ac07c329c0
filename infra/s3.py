"""Objects of any S3-compatible store as a source: listed page by page, fetched in resumable streams."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from infra.download import PASSING_STATUS, FetchLimits, Passing, attempted
from infra.errors import ConfigError, FetchError, StorageError, TransientError
from infra.partial import Deadline, Fetched, Partial

T = TypeVar("T")

PATIENCE = FetchLimits(attempts=7, backoff_s=0.5, max_wait_s=16.0)
"""Requests to a store that fails in a way that may pass: seven, with pauses of 32 to 39 s together."""
CONNECT_S = 10.0
"""Seconds to connect to a store."""
SILENCE_S = 60.0
"""Seconds of silence after which an answer is given up."""
_CHUNK = 1 << 20
_CONNECTIONS = 32
"""Kept open by a client: as many threads as any caller has."""
_PASSING_CODES = frozenset({"RequestTimeout", "IncompleteBody", "BadDigest"})
"""Errors with status 400 that tell of a request damaged on its way."""

_MAKING = threading.Lock()
"""Held while a client is made: boto3's default session is not for several threads, and another takes a second."""


@dataclass(frozen=True, slots=True)
class S3Object:
    """One object as a listing tells of it: key, bytes, ETag (without quotes)."""

    key: str
    bytes: int
    etag: str


def s3_client(limits: FetchLimits | None = None) -> Any:
    """Return a boto3 client; endpoint, region, keys and proxies come from the usual AWS settings.

    It asks once: ``persistently``, or the attempts of ``limits``, ask again. Threads may share it.

    Args:
        limits: timeouts for an object that is fetched; without them ``CONNECT_S`` and ``SILENCE_S`` hold.

    Raises:
        ConfigError: the settings make no sense.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    connect_s, silence_s = (CONNECT_S, SILENCE_S) if limits is None else (limits.timeout_s, limits.timeout_s)
    once = Config(
        retries={"total_max_attempts": 1}, connect_timeout=connect_s, read_timeout=silence_s,
        max_pool_connections=_CONNECTIONS,
    )  # fmt: skip
    try:
        with _MAKING:
            return boto3.client("s3", config=once)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"no S3 client can be made: {_said(error)}; see AWS_ENDPOINT_URL, AWS_PROFILE, …") from error


def persistently(work: Callable[[], T], what: str) -> T:
    """Return what ``work`` does with a store, doing it again while it fails in a way that may pass.

    This is the one place where requests are repeated; botocore would neither read a body again that broke off, nor
    tell that a write whose answer was lost may have been done. A store that answers 503 or refuses connections is
    given up after 40 s, one that takes requests and stays silent after 8 minutes (``PATIENCE`` times ``SILENCE_S``).

    Args:
        work: the requests; with a lost answer they are sent again although they were carried out.
        what: verb and object, for the sentence.

    Raises:
        TransientError: it failed as often as ``PATIENCE`` allows.
        StorageError: the store refuses for good, or the local disk does.
    """
    attempts = 0

    def once() -> T:
        nonlocal attempts
        attempts += 1
        try:
            return work()
        except store_errors() as error:  # before OSError, which some of botocore's are too
            if is_passing(error):
                raise Passing(f"cannot {what}: {_said(error)}") from error
            raise StorageError(f"cannot {what}: {_said(error)}") from error
        except OSError as error:
            raise StorageError(f"cannot {what}: {error.strerror or error}") from error

    try:
        return attempted(once, PATIENCE, Deadline(math.inf))
    except Passing as error:
        raise TransientError(f"{error} (after {attempts} attempts)") from error


def store_errors() -> tuple[type[Exception], ...]:
    """Return all that boto3 raises about a store or the way to it; urllib3's own come from bodies."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return ClientError, BotoCoreError, Boto3Error, HTTPError


def is_passing(error: Exception) -> bool:
    """Tell whether one of ``store_errors`` may be gone on another try: a broken connection, a busy or failing store."""
    from botocore import exceptions as botocore
    from urllib3.exceptions import HTTPError

    if isinstance(error, botocore.ClientError):
        status, code = status_of(error), error.response.get("Error", {}).get("Code")
        of_server = status == 0 or (status >= 500 and status != 501)
        return of_server or status in PASSING_STATUS | {409} or code in _PASSING_CODES
    broken = botocore.HTTPClientError, botocore.IncompleteReadError, botocore.FlexibleChecksumError
    no_keys_now = botocore.MetadataRetrievalError, botocore.CredentialRetrievalError
    return isinstance(error, (*broken, *no_keys_now, HTTPError))


def status_of(error: Exception) -> int:
    """Return the HTTP status with which a store refused; 0 where it did not answer."""
    from botocore.exceptions import ClientError

    told = error.response if isinstance(error, ClientError) else {}
    return int(told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


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
    bucket, prefix = split_s3(uri)
    folder = prefix if not prefix or prefix.endswith("/") else prefix + "/"
    try:
        for item in listed(s3_client(), bucket, prefix):
            if item["Key"] == prefix or item["Key"].startswith(folder):
                yield S3Object(item["Key"], int(item["Size"]), item.get("ETag", "").strip('"'))
    except StorageError as error:
        raise ConfigError(f"source {uri!r}: {error}") from error


def listed(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield what a listing says of each object whose key starts with ``prefix``; errors as ``persistently``."""
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    while asked:
        page = persistently(functools.partial(client.list_objects_v2, **asked), f"list s3://{bucket}/{prefix}")
        yield from page.get("Contents", ())
        asked = asked | {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else {}


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
    try:
        try:
            _go_on(client, bucket, key, etag, partial)
        except store_errors() as error:
            if status_of(error) != 416:
                raise
            _settle_end(client, bucket, key, etag, partial)
    except store_errors() as error:
        if status_of(error) == 412:
            raise Passing("it changed since it was listed") from error
        if status_of(error) and not is_passing(error):
            raise FetchError(_said(error)) from error
        raise Passing(_said(error)) from error
    return partial.finish()


def _go_on(client: Any, bucket: str, key: str, etag: str | None, partial: Partial) -> None:
    """Fetch the bytes that ``partial`` lacks."""
    quoted = f'"{etag}"' if etag else None
    if not partial.size or partial.validator is None or partial.validator != quoted:
        partial.restart(quoted)
    asked = {"Bucket": bucket, "Key": key} | ({"IfMatch": quoted} if quoted else {})
    asked |= {"Range": f"bytes={partial.size}-"} if partial.size else {}
    answer = client.get_object(**asked)
    with closing(answer["Body"]) as body:
        partial.expect(partial.size + int(answer["ContentLength"]))
        for chunk in body.iter_chunks(_CHUNK):
            partial.write(chunk)


def _settle_end(client: Any, bucket: str, key: str, etag: str | None, partial: Partial) -> None:
    """No byte lies beyond those of ``partial``: it is whole, or it is of another version and starts anew."""
    head = client.head_object(Bucket=bucket, Key=key)
    if head["ETag"].strip('"') != etag or int(head["ContentLength"]) != partial.size:
        partial.restart(None)
        raise Passing("it changed while it was fetched")


def _said(error: Exception) -> str:
    """Return what went wrong, in one line: the store's code and message, else the library's words."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return f"{told.get('Code', 'ClientError')}: {told.get('Message', '')}".strip(": ")
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

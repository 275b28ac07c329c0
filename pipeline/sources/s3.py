"""A bucket's prefix as a source: what has a video's extension, known by size and ETag."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from infra.s3 import list_objects, split_s3
from pipeline.rows import ListedVideo
from pipeline.sources.folder import VIDEO_EXTENSIONS
from pipeline.sources.layouts import Layouts

ETAG = "etag:"
"""Begins the fingerprint of an object: its bytes and its ETag follow."""


@dataclass(frozen=True, slots=True)
class S3Source:
    """``s3://bucket/prefix``: the object of that name, and all below it. Other extensions would cost a request each."""

    uri: str
    layouts: Layouts

    def list(self) -> Iterator[ListedVideo]:
        """See Source; hidden names and empty folder markers are left out."""
        bucket, prefix = split_s3(self.uri)
        base = len(prefix.rstrip("/") + "/") if prefix.rstrip("/") else 0
        for item in list_objects(self.uri):
            path = PurePosixPath(item.key)
            hidden = any(part.startswith(".") for part in PurePosixPath(item.key[base:]).parts)
            if path.suffix.lower() not in VIDEO_EXTENSIONS or item.key.endswith("/") or hidden:
                continue
            described = self.layouts.describe_name("/" + item.key)
            yield ListedVideo(
                f"s3://{bucket}/{item.key}",
                item.key[base:] or path.name,
                item.bytes,
                f"{ETAG}{item.bytes}:{item.etag}" if item.etag else None,
                labels=described.labels,
                split=described.split,
                identity=described.identity,
            )


def etag_of(fingerprint: str | None) -> str | None:
    """Return the ETag in an object's fingerprint; None where there is none (a manifest's may be any text)."""
    if fingerprint is None or not fingerprint.startswith(ETAG):
        return None
    size, _, etag = fingerprint.removeprefix(ETAG).partition(":")
    return etag if etag and size.isdecimal() else None

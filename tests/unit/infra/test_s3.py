"""Objects of a store as a source; botocore's own stub answers in place of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from infra.download import FetchLimits
from infra.errors import TransientError
from infra.partial import Deadline, Fetched
from infra.s3 import fetch_object

WHOLE = b"whole object"


def fetch_what_is_here(tmp_path: Path, head: dict[str, Any] | int) -> Fetched:
    """Fetch where all bytes lie here already, so that the store answers 416; then ``head``, or an error's status."""
    (tmp_path / "part").write_bytes(WHOLE)
    (tmp_path / "part.validator").write_text('"\\"abc\\""')
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as store:
        store.add_client_error("get_object", "InvalidRange", http_status_code=416)
        if isinstance(head, int):
            store.add_client_error("head_object", "SlowDown", http_status_code=head)
        else:
            store.add_response("head_object", head)
        limits = FetchLimits(attempts=1)
        return fetch_object(client, "s3://bucket/key", "abc", tmp_path / "part", limits, Deadline(60.0))


def test_what_is_whole_already_is_taken(tmp_path: Path) -> None:
    fetched = fetch_what_is_here(tmp_path, {"ETag": '"abc"', "ContentLength": len(WHOLE)})
    assert fetched.bytes == len(WHOLE)


def test_bytes_of_another_version_begin_anew(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="changed"):
        fetch_what_is_here(tmp_path, {"ETag": '"new"', "ContentLength": len(WHOLE)})
    assert (tmp_path / "part").read_bytes() == b""


def test_a_store_that_fails_at_the_end_is_asked_again_another_night(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="SlowDown"):
        fetch_what_is_here(tmp_path, 503)
    assert (tmp_path / "part").read_bytes() == WHOLE

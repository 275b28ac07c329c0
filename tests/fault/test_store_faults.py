"""A disk that is full and a bucket that refuses, in the middle of the second night."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import ProjectError, StorageError
from infra.ray_session import ray_session
from infra.storage import open_storage
from pipeline.config import IngestConfig
from pipeline.dataset.reader import open_dataset
from pipeline.dataset.verify import verify_dataset
from pipeline.ingest import ingest
from tests.support.bad_corpus import Kit
from tests.support.faulty_proxy import Fault, FaultyProxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUCKET = "bucket"


@pytest.fixture(scope="module")
def bucket() -> Iterator[FaultyProxy]:
    """An S3 server behind a proxy; Ray's workers know it too, since Ray starts later."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = FaultyProxy(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        with ray_session(2):
            yield proxy
    proxy.close()
    server.stop()


@pytest.fixture(scope="module")
def nights(bucket, sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The videos of two nights, the dataset after the first, and after the second when nothing happens."""
    folder = tmp_path_factory.mktemp("nights")
    videos, first, second = folder / "videos", folder / "first", folder / "second"
    videos.mkdir()
    kit = Kit(sample_videos / "single_face.mp4", folder)
    (videos / "one.mp4").write_bytes(kit.different())
    _night(videos, first)
    for number in range(5):
        (videos / f"more {number}.mp4").write_bytes(kit.different())
    shutil.copytree(first, second)
    _night(videos, second)
    return videos, first, second


def _night(videos: Path, out: Path | str) -> int:
    return ingest(IngestConfig(sources=(str(videos),), out=str(out))).version


def _objects(uri: Path | str) -> dict[str, bytes]:
    """All that a dataset holds, but for its versions, which carry the time, and its lock."""
    storage = open_storage(str(uri))
    return {key: storage.read(key) for key in storage.list() if key.startswith(("shards/", "manifests/"))}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here ({done.stderr.decode().strip()})")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_keeps_the_last_version_and_with_room_the_same_command_completes(
    nights: tuple[Path, Path, Path], small_disk: Path
) -> None:
    """Bug caught: a version that lists half a shard; a night that must be repaired by hand; other bytes afterwards."""
    videos, first, second = nights
    out = small_disk / "d"
    shutil.copytree(first, out)
    ballast = small_disk / "ballast"
    free = shutil.disk_usage(small_disk).free
    ballast.write_bytes(bytes(free - (150 << 10)))
    with pytest.raises(StorageError, match="No space left on device") as told:
        _night(videos, out)
    assert "\n" not in str(told.value)
    reader = open_dataset(str(out))
    assert reader.version.version == 1
    assert verify_dataset(reader) == []
    assert os.listdir(out / "work")  # it was in the middle
    ballast.unlink()
    assert _night(videos, out) == 2
    assert _objects(out) == _objects(second)
    assert verify_dataset(open_dataset(str(out))) == []


def test_a_bucket_that_is_busy_twice_for_each_object_changes_nothing(
    nights: tuple[Path, Path, Path], bucket: FaultyProxy
) -> None:
    """Bug caught: a throttled request that ends the night, or a retry that writes something else."""
    videos, first, second = nights
    out = _uploaded(first, "busy")
    bucket.fails = lambda method, path, seen: Fault.BUSY if seen < 2 else None
    try:
        assert _night(videos, out) == 2
    finally:
        bucket.fails = lambda *_: None
    assert bucket.failed > 50
    assert _objects(out) == _objects(second)
    assert verify_dataset(open_dataset(out)) == []


def test_a_bucket_that_refuses_for_good_keeps_the_last_version_and_the_next_night_completes(
    nights: tuple[Path, Path, Path], bucket: FaultyProxy
) -> None:
    """Bug caught: retries without end; a version without its shards; work that is thrown away."""
    videos, first, second = nights
    out = _uploaded(first, "refusing")
    bucket.fails = lambda method, path, _: Fault.BUSY if method == "PUT" and "/shards/" in path else None
    try:
        with pytest.raises(ProjectError, match=r"cannot write s3://bucket/refusing/shards/.*after 7 attempts") as told:
            _night(videos, out)
    finally:
        bucket.fails = lambda *_: None
    assert "\n" not in str(told.value)
    assert verify_dataset(reader := open_dataset(out)) == []
    assert reader.version.version == 1
    assert any(key.endswith(".clips.tar") for key in open_storage(out).list("work/"))
    assert _night(videos, out) == 2
    assert _objects(out) == _objects(second)


def _uploaded(folder: Path, name: str) -> str:
    source, uri = open_storage(str(folder)), f"s3://{BUCKET}/{name}"
    target = open_storage(uri)
    for key in source.list():
        target.write(key, source.read(key))
    return uri

"""The sensor: what has come is announced once, when it holds still, and again when nobody heard it."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import boto3

from flows.sensor import Sensor
from pipeline.config import IngestConfig


class Listener:
    """Hears announcements, or does not."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.deaf = False

    def __call__(self, new: int) -> bool:
        if not self.deaf:
            self.heard.append(new)
        return not self.deaf


def put(path: Path, data: bytes = b"video", age_s: float = 10) -> None:
    """Write a file as if it had been there for a while: a file of this very moment has no fingerprint yet."""
    path.write_bytes(data)
    then = time.time() - age_s
    os.utime(path, (then, then))


def watch(folder: Path, *more: str) -> tuple[Sensor, Listener]:
    listener = Listener()
    return Sensor(IngestConfig(sources=(str(folder), *more), out="d"), listener), listener


def test_each_video_is_announced_once(tmp_path):
    """Catches a sensor that wakes ingestion at every look, or never for what was there at its start."""
    sensor, listener = watch(tmp_path)
    put(tmp_path / "a.mp4")
    put(tmp_path / "notes.txt")
    assert [sensor.look() for _ in range(4)] == [0, 1, 0, 0]
    put(tmp_path / "b.mp4")
    put(tmp_path / "c.mp4")
    assert [sensor.look() for _ in range(3)] == [0, 2, 0]
    (tmp_path / "b.mp4").unlink()
    assert [sensor.look() for _ in range(2)] == [0, 0]
    put(tmp_path / "a.mp4", b"other bytes", age_s=5)
    assert [sensor.look() for _ in range(3)] == [0, 1, 0]
    assert listener.heard == [1, 2, 1]


def test_a_file_that_grows_is_not_announced(tmp_path):
    """Catches half an upload that is ingested, and rejected as unreadable."""
    sensor, _ = watch(tmp_path)
    for size in range(1, 5):
        put(tmp_path / "a.mp4", b"x" * size)
        assert sensor.look() == 0
    assert sensor.look() == 1


def test_what_nobody_heard_is_said_again(tmp_path):
    """Catches an event that is lost with a server that was away for a minute."""
    sensor, listener = watch(tmp_path)
    put(tmp_path / "a.mp4")
    listener.deaf = True
    assert [sensor.look() for _ in range(3)] == [0, 0, 0]
    listener.deaf = False
    assert [sensor.look() for _ in range(2)] == [1, 0]


def test_a_video_that_was_away_is_announced_when_it_is_back(tmp_path):
    """Catches a sensor that remembers all that it ever saw, for months."""
    sensor, listener = watch(tmp_path)
    put(tmp_path / "a.mp4")
    assert [sensor.look() for _ in range(2)] == [0, 1]
    away = (tmp_path / "a.mp4").rename(tmp_path / "a.away")
    put(tmp_path / "b.mp4")
    assert [sensor.look() for _ in range(2)] == [0, 1]
    away.rename(tmp_path / "a.mp4")
    assert [sensor.look() for _ in range(2)] == [0, 1]
    assert listener.heard == [1, 1, 1]


def test_objects_of_a_bucket_are_seen(tmp_path, bucket):
    sensor, listener = watch(tmp_path, f"s3://{bucket}/in")
    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key="in/a.mp4", Body=b"video")
    client.put_object(Bucket=bucket, Key="elsewhere/b.mp4", Body=b"video")
    assert [sensor.look() for _ in range(3)] == [0, 1, 0]
    client.put_object(Bucket=bucket, Key="in/a.mp4", Body=b"another")
    assert [sensor.look() for _ in range(3)] == [0, 1, 0]
    assert listener.heard == [1, 1]


def test_a_source_that_is_away_is_said_once_and_waited_for(tmp_path, caplog):
    """Catches a sensor that dies in the night with a network drive, or fills the disk with complaints."""
    folder = tmp_path / "drive"
    sensor, listener = watch(folder)
    stop = threading.Event()
    thread = threading.Thread(target=sensor.watch, args=(0.02, stop))
    with caplog.at_level(logging.WARNING):
        thread.start()
        time.sleep(0.3)
        folder.mkdir()
        put(folder / "a.mp4")
        end = time.monotonic() + 20
        while not listener.heard:
            assert time.monotonic() < end
            time.sleep(0.02)
        stop.set()
        thread.join()
    assert len([record for record in caplog.records if "goes on trying" in record.message]) == 1
    assert listener.heard == [1]

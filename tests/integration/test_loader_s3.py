"""The loader over an S3 server that is busy, slow or gone: the same batches, or the run stops; nothing is skipped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from infra.download import FetchLimits
from infra.errors import ProjectError
from infra.storage import open_storage
from model.data.batch import ClipBatch
from model.data.loader import ClipLoader
from model.data.source import ClipSource
from model.nets.config import model_config
from model.train_config import MaskConfig
from pipeline.dataset.reader import open_dataset
from tests.support.clip_dataset import write_clip_dataset
from tests.support.faulty_proxy import Fault, FaultyProxy

BATCH, STEPS = 4, 6
SLOW_S = 0.2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards with seven clips."""
    units = [{"anna": [64, 40]}, {"bela": [32, 64, 48]}, {"cleo": [40, 64]}]
    return write_clip_dataset(tmp_path_factory.mktemp("s3") / "dataset", units)


@pytest.fixture
def proxied(
    bucket: str, s3_server: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FaultyProxy, str]]:
    """The dataset in a bucket, and the proxy through which it is read."""
    local, uri = open_storage(str(folder)), f"s3://{bucket}/dataset"
    store = open_storage(uri)
    for key in local.list():
        store.write(key, local.read(key))
    host, _, port = s3_server.removeprefix("http://").partition(":")
    proxy = FaultyProxy(host, int(port))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr("infra.s3.PATIENCE", FetchLimits(attempts=4, backoff_s=0.01))
    yield proxy, uri
    proxy.close()


def open_source(uri: str | Path) -> ClipSource:
    shape = model_config("marlin_vit_tiny", image_size=112)
    return ClipSource(open_dataset(str(uri)), "train", shape, MaskConfig(), seed=3, read_attempts=2)


def read(uri: str | Path, steps: int, rank: int = 0, world: int = 1, **options) -> list[ClipBatch]:
    loader = ClipLoader(open_source(uri), BATCH, rank=rank, world=world, **options)
    try:
        return [next(loader) for _ in range(steps)]
    finally:
        loader.close()


def assert_same(one: list[ClipBatch], other: list[ClipBatch]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.clip_BTHWC, b.clip_BTHWC)
        assert torch.equal(a.is_masked_BL, b.is_masked_BL)


def is_shard(method: str, path: str) -> bool:
    return method == "GET" and path.endswith(".tar")


def test_reads_that_fail_now_and_then_change_no_batch(proxied: tuple[FaultyProxy, str], folder: Path) -> None:
    """Catches 'take another clip instead', and a retry that draws another window: three of four reads fail."""
    proxy, uri = proxied
    faults = [Fault.BUSY, Fault.CUT, Fault.CLOSED, None]
    proxy.fails = lambda method, path, seen: faults[seen % 4] if is_shard(method, path) else None
    assert_same(read(uri, STEPS, workers=1), read(folder, STEPS))  # one, or several reads share the faults out unevenly
    assert proxy.failed > STEPS


def test_slow_reads_change_no_batch(proxied: tuple[FaultyProxy, str], folder: Path) -> None:
    """Catches batches filled in the order in which clips arrive: every second read of a shard takes longer."""
    proxy, uri = proxied

    def slow(method: str, path: str, seen: int) -> None:
        if is_shard(method, path) and seen % 2:
            time.sleep(SLOW_S)

    proxy.fails = slow
    assert_same(read(uri, STEPS, workers=4), read(folder, STEPS))


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.CUT])
def test_a_store_that_fails_for_good_stops_the_run_with_one_sentence(
    proxied: tuple[FaultyProxy, str], fault: Fault
) -> None:
    """Catches a clip that is left out in silence, and retries without end."""
    proxy, uri = proxied
    proxy.fails = lambda method, path, seen: fault if is_shard(method, path) and seen > 5 else None
    with pytest.raises(ProjectError, match=r"unit 0+\d, row \d: cannot read s3://.*\(after 4 attempts\)") as told:
        read(uri, 4 * STEPS)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("worlds", [(1, 2, 4, 1), (4, 1, 2, 4)])
def test_ranks_that_come_and_go_read_the_batches_of_one_rank_to_the_end_of_an_epoch(folder: Path, worlds) -> None:
    """First + rest == whole, more ranks (4) than shards (3), and an epoch (7 clips) that ends within a batch."""
    whole = read(folder, 2 * len(worlds))
    state, parts = None, []
    for world in worlds:
        ranks, states = [], []
        for rank in range(world):
            loader = ClipLoader(open_source(folder), BATCH, rank=rank, world=world)
            if state is not None:
                loader.load_state_dict(state)
            ranks.append([next(loader) for _ in range(2)])
            states.append(loader.state_dict())
            loader.close()
        assert all(found == states[0] for found in states)
        state = states[0]
        for shares in zip(*ranks, strict=True):
            clips, masks = (torch.cat([share[field] for share in shares]) for field in (0, 1))
            parts.append(ClipBatch(clips, masks, tuple(key for share in shares for key in share.keys)))
    assert_same(parts, whole)
    keys = [key for batch in whole for key in batch.keys]
    for start in range(0, len(keys) - 6, 7):
        assert len(set(keys[start : start + 7])) == 7  # every clip once an epoch

"""The loader: the same batches for any number of ranks and workers, resumable to the clip."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
import torch

from infra.errors import CheckpointError, ConfigError, MediaError, ProjectError
from model.data.batch import ClipBatch, ClipSample
from model.data.loader import ClipLoader
from model.data.source import ClipSource
from model.nets.config import model_config
from model.train_config import MaskConfig
from pipeline.dataset.reader import open_dataset
from tests.support.processes import left_of


def batches(source, count: int, batch: int = 4, **options) -> list[ClipBatch]:
    loader = ClipLoader(source, batch, **options)
    try:
        return [next(loader) for _ in range(count)]
    finally:
        loader.close()


def same(one: ClipBatch, other: ClipBatch) -> bool:
    tensors = zip(one[:2], other[:2], strict=True)
    return one.keys == other.keys and all(torch.equal(a, b) for a, b in tensors)


def joined(parts: list[ClipBatch]) -> ClipBatch:
    return ClipBatch(
        torch.cat([part.clip_BTHWC for part in parts]),
        torch.cat([part.is_masked_BL for part in parts]),
        tuple(key for part in parts for key in part.keys),
    )


@pytest.mark.parametrize(("world", "workers"), [(1, 1), (2, 3), (4, 1)])
def test_a_global_batch_is_the_same_for_any_number_of_ranks_and_workers(open_numbered, world, workers):
    """Catches randomness that depends on who loads a clip: windows, masks and order must all agree."""
    whole = batches(open_numbered(), 3)
    ranks = [batches(open_numbered(), 3, rank=rank, world=world, workers=workers) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert same(batch, joined([shares[step] for shares in ranks]))


def test_batches_are_uint8_and_rectangular(open_numbered):
    batch = batches(open_numbered(), 1)[0]
    assert batch.clip_BTHWC.dtype == torch.uint8
    assert batch.clip_BTHWC.shape == (4, 16, 224, 224, 3)
    assert batch.is_masked_BL.sum(dim=1).tolist() == [1412] * 4


def test_first_and_rest_are_the_whole_also_when_resumed_on_another_number_of_ranks(open_numbered):
    """Catches counting clips read ahead as seen (they would be lost), or a position kept per rank."""
    whole = batches(open_numbered(), 6)
    first = ClipLoader(open_numbered(), 4, read_ahead=3)
    start = [next(first) for _ in range(2)]
    state = first.state_dict()
    first.close()
    assert state == {"version": 1, "seed": 0, "clips_seen": 8}
    rest: list[list[ClipBatch]] = []
    for rank in range(2):
        loader = ClipLoader(open_numbered(), 4, rank=rank, world=2)
        next(loader)  # a resume must drop what was read ahead
        loader.load_state_dict(state)
        rest.append([next(loader) for _ in range(4)])
        loader.close()
    resumed = start + [joined(list(parts)) for parts in zip(*rest, strict=True)]
    assert all(same(one, other) for one, other in zip(whole, resumed, strict=True))


@pytest.mark.parametrize(
    ("change", "word"), [({"version": 2}, "version 2"), ({"seed": 5}, "seed 5"), ({"clips_seen": 6}, "multiple")]
)
def test_a_position_in_another_order_is_refused(open_numbered, change, word):
    """Catches going on at position p of an order that is not the one p was counted in."""
    loader = ClipLoader(open_numbered(), 4)
    with pytest.raises(CheckpointError, match=word):
        loader.load_state_dict({**loader.state_dict(), **change})
    loader.close()


def test_ranks_that_do_not_divide_the_batch_are_refused(open_numbered):
    with pytest.raises(ConfigError, match="multiple of 3"):
        ClipLoader(open_numbered(), 4, world=3)


def test_micro_batches_are_the_batch_in_order(open_numbered):
    batch = batches(open_numbered(), 1)[0]
    parts = batch.split(1)
    assert [len(part.keys) for part in parts] == [1] * 4
    assert same(joined(parts), batch)


def test_the_decoder_s_targets_travel_with_the_batch(open_numbered):
    """Catches a setting that reaches no batch, and micro-batches with another clip's targets."""
    assert batches(open_numbered(), 1)[0].is_target_BL is None
    batch = batches(open_numbered(mask=MaskConfig(decoder_ratio=0.5)), 1)[0].to(torch.device("cpu"))
    assert batch.is_target_BL.sum(dim=1).tolist() == [706] * 4
    assert not (batch.is_target_BL & ~batch.is_masked_BL).any()
    assert torch.equal(torch.cat([part.is_target_BL for part in batch.split(2)]), batch.is_target_BL)
    assert torch.equal(batches(open_numbered(), 1)[0].is_masked_BL, batch.is_masked_BL)


HANG_S = 90


def reopened(dataset: str, damaged: int = -1, full: int = -1, kill: int = -1, hang: int = -1) -> ClipSource:
    """What a process opens; the others are positions that fail, that end the process (``kill``), and that hang."""
    source = ClipSource(open_dataset(dataset), "train", model_config("marlin_vit_tiny"), MaskConfig(), seed=0)
    load = source.load

    def trapped(position: int) -> ClipSample:
        if position == damaged:
            raise MediaError("clip 5 cannot be decoded: it is damaged")
        if position == full:
            raise RuntimeError("no space left on device")
        if position == hang:
            time.sleep(HANG_S)
        if position == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(position)

    source.load = trapped  # type: ignore[method-assign]
    return source


@pytest.mark.slow
def test_processes_give_the_batches_that_threads_give_also_from_the_middle(open_numbered, numbered_dataset):
    """Catches an order that depends on which process is first, and a stream that begins anew after a resume."""
    wanted = batches(open_numbered(), 5)
    loader = ClipLoader(open_numbered(), 4, workers=2, opens=partial(reopened, str(numbered_dataset)))
    assert all(same(next(loader), batch) for batch in wanted[:2])
    loader.load_state_dict({"version": 1, "seed": 0, "clips_seen": 12})
    assert all(same(next(loader), batch) for batch in wanted[3:])
    loader.close()


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_said_in_its_own_words(open_numbered, numbered_dataset):
    """Catches a clip that is skipped, a traceback as a sentence, and a wait for a process that was killed.

    And a TrainingError, which all ranks agree on: the rank of a killed process starts again like any that lost one.
    """
    for trap, error, words in (
        ("damaged", MediaError, "^clip 5 cannot be"),
        ("full", ProjectError, "^a process that reads clips failed: RuntimeError: no space left"),
        ("kill", ProjectError, "^a process that reads clips ended"),
    ):
        loader = ClipLoader(open_numbered(), 4, workers=1, opens=partial(reopened, str(numbered_dataset), **{trap: 5}))
        with pytest.raises(error, match=words) as told:
            list(loader)
        assert type(told.value) is error
        loader.close()


RANK = """
import os, signal, sys, threading, time
from functools import partial
import psutil, torch
from model.data.loader import ClipLoader
from tests.unit.model.data.test_loader import reopened

folder, order = sys.argv[1:]
before = torch.get_rng_state()
signal.signal(signal.SIGTERM, lambda *_: None)


def stop_while_readers_begin():
    while len(psutil.Process().children()) < 3:  # the readers, and what keeps their shared memory
        time.sleep(0.01)
    os.killpg(0, signal.SIGTERM)


if order == "stop":
    threading.Thread(target=stop_while_readers_begin).start()
opens = partial(reopened, folder, hang=5 if order == "kill" else -1)  # a reader that hangs sees nothing by itself
loader = ClipLoader(reopened(folder), 4, workers=2, read_ahead=1, opens=opens)
next(loader)
assert torch.equal(torch.get_rng_state(), before), "the noise of a resumed run would be another"
print(*(child.pid for child in psutil.Process().children()), flush=True)
if order == "stop":
    os.killpg(0, signal.SIGTERM)
    for _ in range(4):
        next(loader)
    print("saved", flush=True)
    loader.close()
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["stop", "kill"])
def test_processes_live_as_long_as_their_rank_and_leave_its_randomness_alone(numbered_dataset, order):
    """Catches readers that torchrun's signal to the rank's group ends before it has saved, and readers that stay."""
    command = [sys.executable, "-c", RANK, str(numbered_dataset), order]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as rank:
        pids = [int(pid) for pid in rank.stdout.readline().split()]
        assert len(pids) >= 2
        assert rank.wait(60) == (0 if order == "stop" else -signal.SIGKILL)
        readers = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                readers.append(psutil.Process(pid))
        left = left_of(readers, HANG_S / 3)
        for process in left:  # they hold the other end of the pipe
            process.kill()
        assert left == []
        assert rank.stdout.read().split() == (["saved"] if order == "stop" else [])

"""Save and load both engines, their random state and their place in the data. Every rank calls what is here."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from infra.errors import CheckpointError, StorageError
from model.train.checkpoint_folder import (
    FOLDER,
    TrainState,
    newest_checkpoint,
    prune,
    read_state,
    seal,
)
from model.train.determinism import random_state, rank_seed, restore_random_state
from model.train.engines import Engines
from model.train.universal import convert, loading_universal

logger = logging.getLogger(__name__)

BYTES_PER_PARAMETER = 20
"""On disk, at most: fp32 masters, two moments, the network as it computes, and ``weights.safetensors``."""


def save_checkpoint(
    run_dir: Path,
    engines: Engines,
    state: TrainState,
    *,
    keep_last: int,
    keep_best: int = 0,
    add: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write a checkpoint and then remove all but the newest and the best. Collective: every rank calls it.

    ``add`` is called by every rank to put further files into the folder, before it is sealed.

    Raises:
        CheckpointError: there is no room for it; every rank raises, and older checkpoints stay.
        StorageError: rank 0 could not begin or complete it: every rank raises; or this rank could not write its part:
            the others wait and must be ended. Older checkpoints stay.
    """
    root = run_dir / FOLDER
    final = root / f"step-{state.step:06d}"
    temporary = root / f"{final.name}.tmp"

    def begin() -> None:
        if dist.get_rank() == 0:
            for leftover in root.glob("step-*.tmp"):
                shutil.rmtree(leftover)
            temporary.mkdir(parents=True)
            _check_room(root, engines)

    _on_each_rank(begin, f"begin {final}")
    try:
        # a rank that fails in here ends, and torchrun ends the others: DeepSpeed waits inside for all of them
        for tag, engine in _tagged(engines):
            engine.save_checkpoint(str(temporary), tag=tag, client_state={}, save_latest=False)
        torch.save(random_state(), temporary / _rng_name(dist.get_rank()))
        add(temporary)
        dist.barrier()  # or rank 0 would seal a folder that others still write into: ZeRO 0 waits for nobody above
    except (OSError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise StorageError(
            f"{final} could not be written ({first}); if space is short there, free some; the same command "
            "with the same run folder goes on from the checkpoint before"
        ) from error

    def complete() -> None:
        if dist.get_rank() == 0:
            seal(temporary, final, state)
            prune(root, keep_last, keep_best)

    _on_each_rank(complete, f"complete {final}")
    return final


def load_checkpoint(run_dir: Path, engines: Engines, *, config_digest: str) -> TrainState | None:
    """Load the newest whole checkpoint into the engines, with random state; None when there is none. Collective.

    Rank 0 verifies and chooses; all ranks load what it chose. With another number of ranks than wrote it, rank 0 first
    converts it. Then everything is as it was but the ranks' random state, which the caller seeds.

    Raises:
        CheckpointError: every checkpoint there is damaged, or it belongs to other settings.
        StorageError: some rank could not read or load its part, which may pass; every rank raises.
    """
    chosen = _chosen(run_dir)
    if chosen is None:
        return None
    folder, state = chosen
    if state.config_digest != config_digest:
        raise CheckpointError(
            f"{folder} belongs to other settings; resume with the run's own, or take a new run folder"
        )
    if state.world_size == dist.get_world_size():
        _load(engines, folder)
        _on_each_rank(lambda: _load_random_state(folder, state), f"load the random state of {folder}")
    else:
        _load_resized(engines, folder, state.world_size)
    return state


def _chosen(run_dir: Path) -> tuple[Path, TrainState] | None:
    """The newest whole checkpoint and its state, as rank 0 sees them."""
    found: list[Any] = [None]

    def choose() -> None:
        if dist.get_rank() == 0 and (folder := newest_checkpoint(run_dir)) is not None:
            found[0] = (folder, read_state(folder))

    _on_each_rank(choose, f"choose a checkpoint of {run_dir}")
    dist.broadcast_object_list(found, src=0)
    return found[0]


def _load(engines: Engines, folder: Path) -> None:
    def load_both() -> None:
        for tag, engine in _tagged(engines):
            path, _ = engine.load_checkpoint(str(folder), tag=tag)
            if path is None:
                raise CheckpointError(f"DeepSpeed found nothing to load for {tag}")

    _on_each_rank(load_both, f"load {folder}")


def _load_random_state(folder: Path, state: TrainState) -> None:
    rank = dist.get_rank()
    kept = torch.load(folder / _rng_name(rank), weights_only=True)
    restore_random_state(kept, otherwise=rank_seed(state.data["seed"], rank, state.step))


def _load_resized(engines: Engines, folder: Path, written_by: int) -> None:
    """Load through a converted copy, which is removed; one that a kill leaves behind is swept by the next save."""
    if dist.get_rank() == 0:
        logger.warning(
            "%s was written by %d ranks and this run has %d: weights, moments and the order of clips go on exactly, "
            "the ranks' random state begins anew", folder, written_by, dist.get_world_size(),
        )  # fmt: skip
    if engines.generator.zero_optimization_stage() == 0:  # nothing is cut up
        return _load(engines, folder)
    copy = folder.with_name(f"{folder.name}.universal.tmp")

    def convert_both() -> None:
        if dist.get_rank() == 0:
            shutil.rmtree(copy, ignore_errors=True)
            for tag, _ in _tagged(engines):
                convert(folder / tag, copy / tag)

    _on_each_rank(convert_both, f"convert {folder}")
    with contextlib.ExitStack() as stack:
        for _, engine in _tagged(engines):
            stack.enter_context(loading_universal(engine))
        _load(engines, copy)
    if dist.get_rank() == 0:
        shutil.rmtree(copy, ignore_errors=True)


def _tagged(engines: Engines) -> list[tuple[str, Any]]:
    pairs = [("G", engines.generator), ("D", engines.discriminator)]
    return [(tag, engine) for tag, engine in pairs if engine is not None]


def _rng_name(rank: int) -> str:
    return f"rng-{rank:05d}.pt"


def _check_room(root: Path, engines: Engines) -> None:
    """Refuse to begin what cannot end: a full disk would stop ranks half-way, one by one."""
    numbers = sum(value.numel() for _, engine in _tagged(engines) for value in engine.module.parameters())
    needed, free = numbers * BYTES_PER_PARAMETER, shutil.disk_usage(root).free
    if free < needed:
        raise CheckpointError(
            f"{root} has {free / 1e9:.1f} GB free and a checkpoint takes {needed / 1e9:.1f}; free some space, and the "
            "same command with the same run folder goes on from the last checkpoint"
        )


def _on_each_rank(work: Callable[[], None], what: str) -> None:
    """Do ``work`` and raise on every rank when it failed on any: else the others would wait for that one for ever.

    Raises:
        StorageError: only the file system or the device failed: a restart may find it well again.
        CheckpointError: all else, which would end the same way again.
    """
    problem: tuple[str, bool] | None = None
    try:
        work()
    except Exception as error:
        may_pass = isinstance(error, (OSError, RuntimeError, StorageError))
        problem = f"rank {dist.get_rank()} could not {what}: {error}", may_pass
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, problem)
    problems = [found for found in gathered if found]
    if problems:
        kind = StorageError if all(may_pass for _, may_pass in problems) else CheckpointError
        raise kind("; ".join(text for text, _ in problems))

"""Checkpoints of both engines as one folder that is whole or not there.

::

    checkpoints/step-000300/G/…  D/…             DeepSpeed's own files
                            rng-00000.pt         random state, one file a rank
                            weights.safetensors  both networks in fp32, for everything but going on
                            state.json           step, data position, config, counters
                            COMPLETE             size and sha256 of every file above
    checkpoints/latest  best                     names of the newest and of the one with the least validation loss, for
                                                 people; loading does not trust them
    checkpoints/step-000300.universal.tmp        while a run goes on with another number of ranks

All ranks write into ``step-000300.tmp``; rank 0 then hashes it, writes COMPLETE and renames. DeepSpeed alone would
silently restart without its ``latest``, load flipped bytes or another step's files, and report success on rank 0 while
another rank's file is missing; so nothing is handed to it that COMPLETE does not vouch for.

A checkpoint is as trusted as the code: DeepSpeed unpickles its files. What is passed on is ``weights.safetensors``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from infra.errors import CheckpointError, StorageError
from infra.fetch import file_digest
from model.data.batch import LoaderState
from model.train.determinism import random_state, restore_random_state
from model.train.engines import Engines
from model.train.universal import convert, loading_universal
from model.train_config import CheckpointConfig
from model.weights import CHECKPOINTS

logger = logging.getLogger(__name__)

FOLDER, COMPLETE, STATE, LATEST, BEST = CHECKPOINTS, "COMPLETE", "state.json", "latest", "best"
SCHEMA = 2
BYTES_PER_PARAMETER = 20
"""On disk, at most: fp32 masters, two moments, the network as it computes, and ``weights.safetensors``."""


@dataclass(frozen=True)
class TrainState:
    """What a run must know besides weights, optimiser and random state.

    ``step`` counts finished optimiser steps; ``skipped`` the latest ones in a row that were not finite. ``val_loss``
    was measured at this step, None when it was saved unmeasured (preemption, no validation clips).
    """

    step: int
    data: LoaderState
    config_digest: str
    world_size: int
    skipped: int = 0
    val_loss: float | None = None
    schema: int = SCHEMA


def save_checkpoint(
    run_dir: Path,
    engines: Engines,
    state: TrainState,
    *,
    keep: CheckpointConfig,
    add: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write a checkpoint and then remove those that ``keep`` does not ask for. Collective: every rank calls it.

    ``add`` is called by every rank to put further files into the folder, before it is sealed.

    Raises:
        CheckpointError: there is no room for it, or rank 0 could not complete it; every rank raises, and older
            checkpoints stay.
        StorageError: this rank could not write its part; the others wait and must be ended.
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
        # a rank that fails in here ends, and the launcher ends the others: DeepSpeed waits inside for all of them
        for tag, engine in _tagged(engines):
            engine.save_checkpoint(str(temporary), tag=tag, client_state={}, save_latest=False)
        torch.save(random_state(), temporary / _rng_name(dist.get_rank()))
        add(temporary)
    except (OSError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise StorageError(
            f"{final} could not be written ({first}); free some space where the run folder lies, and the same command "
            "goes on from the checkpoint before"
        ) from error

    def complete() -> None:
        if dist.get_rank() == 0:
            _seal(temporary, final, state)
            _prune(root, keep)

    _on_each_rank(complete, f"complete {final}")
    return final


def load_checkpoint(run_dir: Path, engines: Engines, *, config_digest: str) -> TrainState | None:
    """Load the newest whole checkpoint into the engines, with random state; None when there is none. Collective.

    Rank 0 verifies and chooses; all ranks load what it chose. With another number of ranks than wrote it, rank 0 first
    converts it. Then everything is as it was but the ranks' random state, which the caller seeds.

    Raises:
        CheckpointError: every checkpoint there is damaged, it belongs to other settings, or some rank could not load
            its part.
    """
    folder = _chosen(run_dir)
    if folder is None:
        return None
    state = read_state(folder)
    if state.config_digest != config_digest:
        raise CheckpointError(
            f"{folder} belongs to other settings; resume with the run's own, or take a new run folder"
        )
    if state.world_size == dist.get_world_size():
        _load(engines, folder)
        _on_each_rank(
            lambda: restore_random_state(torch.load(folder / _rng_name(dist.get_rank()), weights_only=True)),
            f"load the random state of {folder}",
        )
    else:
        _load_resized(engines, folder, state.world_size)
    return state


def _chosen(run_dir: Path) -> Path | None:
    """The newest whole checkpoint, as rank 0 sees it."""
    found: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            found = [newest_checkpoint(run_dir)]
        except CheckpointError as error:
            found = [error]
    dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], CheckpointError):
        raise found[0]
    return found[0]


def _load(engines: Engines, folder: Path) -> None:
    def load_both() -> None:
        for tag, engine in _tagged(engines):
            path, _ = engine.load_checkpoint(str(folder), tag=tag)
            if path is None:
                raise CheckpointError(f"DeepSpeed found nothing to load for {tag}")

    _on_each_rank(load_both, f"load {folder}")


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


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint whose files all are what COMPLETE says; None when the run has none at all.

    Raises:
        CheckpointError: there are checkpoints and none is whole; starting afresh over them must be asked for.
    """
    found = list_checkpoints(run_dir)
    problems = []
    for folder in reversed(found):
        problem = check(folder)
        if problem is None:
            return folder
        logger.warning("checkpoint %s is not whole (%s); falling back to the one before", folder, problem)
        problems.append(f"{folder.name}: {problem}")
    if problems:
        raise CheckpointError(
            f"no checkpoint under {run_dir / FOLDER} is whole ({'; '.join(problems)}); restore one, or start a new "
            "run folder"
        )
    return None


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the published checkpoint folders, oldest first, whole or not."""
    found = [path for path in (run_dir / FOLDER).glob("step-*") if path.name[5:].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def check(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None when every file has the size and digest that COMPLETE lists."""
    try:
        files = json.loads((folder / COMPLETE).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{COMPLETE} is missing or damaged ({type(error).__name__})"
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if file_digest(path) != digest:
            return f"{name} has other content than was written"
    return None


def read_state(folder: Path) -> TrainState:
    """Return a checkpoint's ``state.json``."""
    try:
        tree = json.loads((folder / STATE).read_text())
        if tree.get("schema") != SCHEMA:
            raise CheckpointError(f"{folder} has schema {tree.get('schema')}, this code reads {SCHEMA}")
        return TrainState(**tree)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / STATE} cannot be read: {error}") from error


def _tagged(engines: Engines) -> list[tuple[str, Any]]:
    pairs = [("G", engines.generator), ("D", engines.discriminator)]
    return [(tag, engine) for tag, engine in pairs if engine is not None]


def _rng_name(rank: int) -> str:
    return f"rng-{rank:05d}.pt"


def _seal(temporary: Path, final: Path, state: TrainState) -> None:
    """Make the folder whole and give it its name; every byte is on disk before the name appears."""
    (temporary / STATE).write_text(json.dumps(asdict(state), indent=1))
    names = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file())
    files = {name: (os.path.getsize(temporary / name), file_digest(temporary / name)) for name in names}
    (temporary / COMPLETE).write_text(json.dumps({"files": files}, indent=1))
    for name in [*names, COMPLETE]:
        _sync(temporary / name)
    shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step, which loading walked past
    temporary.rename(final)
    _sync(final.parent)
    _point(final.parent / LATEST, final)


def _prune(root: Path, keep: CheckpointConfig) -> None:
    """Keep the newest and, besides, the best of those that were measured."""
    older = list_checkpoints(root.parent)[: -keep.keep_last]
    losses = {folder: _val_loss(folder) for folder in list_checkpoints(root.parent)}
    measured = sorted((loss, folder) for folder, loss in losses.items() if loss is not None)
    best = [folder for _, folder in measured[: keep.keep_best]]
    if best:
        _point(root / BEST, best[0])
    for folder in older:
        if folder not in best:
            shutil.rmtree(folder, ignore_errors=True)


def _val_loss(folder: Path) -> float | None:
    try:
        loss = read_state(folder).val_loss
    except CheckpointError:  # a damaged one is nobody's best
        return None
    return loss if loss is not None and math.isfinite(loss) else None


def _point(pointer: Path, folder: Path) -> None:
    temporary = pointer.with_name(f"{pointer.name}.tmp")
    temporary.write_text(folder.name)
    temporary.replace(pointer)


def _check_room(root: Path, engines: Engines) -> None:
    """Refuse to begin what cannot end: a full disk would stop ranks half-way, one by one."""
    numbers = sum(value.numel() for _, engine in _tagged(engines) for value in engine.module.parameters())
    needed, free = numbers * BYTES_PER_PARAMETER, shutil.disk_usage(root).free
    if free < needed:
        raise CheckpointError(
            f"{root} has {free / 1e9:.1f} GB free and a checkpoint takes {needed / 1e9:.1f}; free some space, and the "
            "same command goes on from the last checkpoint"
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _on_each_rank(work: Callable[[], None], what: str) -> None:
    """Do ``work``, and raise on every rank when it failed on any: or the others would wait for that one for ever."""
    problem: str | None = None
    try:
        work()
    except Exception as error:
        problem = f"rank {dist.get_rank()} could not {what}: {error}"
    _agree(problem)


def _agree(problem: str | None) -> None:
    """Raise on every rank when any rank has a problem. A barrier, too."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, problem)
    problems = [text for text in gathered if text]
    if problems:
        raise CheckpointError("; ".join(problems))

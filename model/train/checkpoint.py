"""Checkpoints of both engines as one folder that is whole or not there.

::

    checkpoints/step-000300/G/…  D/…             DeepSpeed's own files
                            rng-00000.pt         random state, one file a rank
                            weights.safetensors  both networks in fp32, for everything but going on
                            state.json           step, data position, config, counters
                            COMPLETE             size and sha256 of every file above
    checkpoints/latest                           name of the newest, for people; loading does not trust it

All ranks write into ``step-000300.tmp``; rank 0 then hashes it, writes COMPLETE and renames. DeepSpeed alone would
silently restart without its ``latest``, load flipped bytes or another step's files, and report success on rank 0 while
another rank's file is missing; so nothing is handed to it that COMPLETE does not vouch for.

A checkpoint is as trusted as the code: DeepSpeed unpickles its files. What is passed on is ``weights.safetensors``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from infra.errors import CheckpointError
from infra.fetch import file_digest
from model.data.batch import LoaderState
from model.train.determinism import random_state, restore_random_state
from model.train.engines import Engines
from model.weights import CHECKPOINTS

logger = logging.getLogger(__name__)

FOLDER, COMPLETE, STATE, LATEST = CHECKPOINTS, "COMPLETE", "state.json", "latest"
SCHEMA = 1


@dataclass(frozen=True)
class TrainState:
    """What a run must know besides weights, optimiser and random state.

    ``step`` counts finished optimiser steps; ``skipped`` the latest ones in a row that were not finite.
    """

    step: int
    data: LoaderState
    config_digest: str
    world_size: int
    skipped: int = 0
    schema: int = SCHEMA


def save_checkpoint(
    run_dir: Path,
    engines: Engines,
    state: TrainState,
    *,
    keep_last: int,
    add: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write a checkpoint and then remove the oldest beyond ``keep_last``. Collective: every rank calls it.

    ``add`` is called by every rank to put further files into the folder, before it is sealed.

    Raises:
        CheckpointError: rank 0 could not complete it; every rank raises, and older checkpoints stay.
        OSError, RuntimeError: this rank could not write its part.
    """
    root = run_dir / FOLDER
    final = root / f"step-{state.step:06d}"
    temporary = root / f"{final.name}.tmp"
    problem: str | None = None
    if dist.get_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    # a rank that fails in here ends, and the launcher ends the others: DeepSpeed waits inside for all of them
    for tag, engine in _tagged(engines):
        engine.save_checkpoint(str(temporary), tag=tag, client_state={}, save_latest=False)
    torch.save(random_state(), temporary / _rng_name(dist.get_rank()))
    add(temporary)
    dist.barrier()
    if dist.get_rank() == 0:
        try:
            _seal(temporary, final, state)
            _prune(root, keep_last)
        except OSError as error:
            problem = f"checkpoint {final} could not be completed: {error}"
    _agree(problem)
    return final


def load_checkpoint(run_dir: Path, engines: Engines, *, config_digest: str) -> TrainState | None:
    """Load the newest whole checkpoint into the engines, with random state; None when there is none. Collective.

    Rank 0 verifies and chooses; all ranks load what it chose.

    Raises:
        CheckpointError: every checkpoint there is damaged, it belongs to other settings or another number of ranks, or
            some rank could not load its part.
    """
    chosen: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            found = newest_checkpoint(run_dir)
            chosen = [str(found) if found else None, None]
        except CheckpointError as error:
            chosen = [None, str(error)]
    dist.broadcast_object_list(chosen, src=0)
    if chosen[1]:
        raise CheckpointError(chosen[1])
    if chosen[0] is None:
        return None
    folder = Path(chosen[0])
    state = read_state(folder)
    if state.world_size != dist.get_world_size():
        raise CheckpointError(
            f"{folder} was written by {state.world_size} ranks and this run has {dist.get_world_size()}; "
            f"resume with world_size={state.world_size}"
        )
    if state.config_digest != config_digest:
        raise CheckpointError(
            f"{folder} belongs to other settings; resume with the run's own, or take a new run folder"
        )
    problem: str | None = None
    try:
        for tag, engine in _tagged(engines):
            path, _ = engine.load_checkpoint(str(folder), tag=tag)
            if path is None:
                raise CheckpointError(f"DeepSpeed found nothing to load for {tag}")
        restore_random_state(torch.load(folder / _rng_name(dist.get_rank()), weights_only=True))
    except Exception as error:  # any failure of one rank must reach all, or the others wait for it for ever
        problem = f"rank {dist.get_rank()} could not load {folder}: {error}"
    _agree(problem)
    return state


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
    pointer = final.parent / f"{LATEST}.tmp"
    pointer.write_text(final.name)
    pointer.replace(final.parent / LATEST)


def _prune(root: Path, keep_last: int) -> None:
    for folder in list_checkpoints(root.parent)[:-keep_last]:
        shutil.rmtree(folder, ignore_errors=True)
    for leftover in root.glob("step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _agree(problem: str | None) -> None:
    """Raise on every rank when any rank has a problem. A barrier, too."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, problem)
    problems = [text for text in gathered if text]
    if problems:
        raise CheckpointError("; ".join(problems))

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

import json
import logging
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.errors import CheckpointError, StorageError
from infra.fetch import file_digest
from model.data.batch import LoaderState
from model.weights import CHECKPOINTS

logger = logging.getLogger(__name__)

FOLDER, COMPLETE, STATE, LATEST, BEST = CHECKPOINTS, "COMPLETE", "state.json", "latest", "best"
SCHEMA = 2


@dataclass(frozen=True)
class TrainState:
    """What a run must know besides weights, optimiser and random state.

    ``step`` counts finished optimiser steps; ``skipped`` the latest ones in a row that were not finite, and
    ``skipped_total`` all that were not. ``val_loss`` was measured at this step, None when it was saved unmeasured
    (preemption, ``every_minutes``, no validation clips).
    """

    step: int
    data: LoaderState
    config_digest: str
    world_size: int
    skipped: int = 0
    val_loss: float | None = None
    skipped_total: int = 0
    schema: int = SCHEMA


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint whose files all are what COMPLETE says; None when the run has none at all.

    Raises:
        CheckpointError: there are checkpoints and none is whole; starting afresh over them must be asked for.
        StorageError: as before, but some cannot be read at present.
    """
    problems, unread = [], False
    for folder in reversed(list_checkpoints(run_dir)):
        try:
            problem = check(folder)
        except StorageError as error:
            problem, unread = str(error), True
        if problem is None:
            return folder
        logger.warning("checkpoint %s is not whole (%s); falling back to the one before", folder, problem)
        problems.append(f"{folder.name}: {problem}")
    if not problems:
        return None
    raise (StorageError if unread else CheckpointError)(
        f"no checkpoint under {run_dir / FOLDER} is whole ({'; '.join(problems)}); restore one, or take a new run "
        "folder"
    )


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the published checkpoint folders, oldest first, whole or not."""
    found = [path for path in (run_dir / FOLDER).glob("step-*") if path.name[5:].isdigit() and path.is_dir()]
    return sorted(found, key=_step)


def check(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None when every file has the size and digest that COMPLETE lists.

    Raises:
        StorageError: a file is there and cannot be read.
    """
    name = COMPLETE
    try:
        files = json.loads((folder / COMPLETE).read_text())["files"]
        for name, (size, digest) in files.items():
            found = (folder / name).stat().st_size
            if found != size:
                return f"{name} has {found} of {size} bytes"
            if file_digest(folder / name) != digest:
                return f"{name} has other content than was written"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        raise StorageError(f"{name} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{COMPLETE} is damaged ({type(error).__name__})"
    return None


def read_state(folder: Path) -> TrainState:
    """Return a checkpoint's ``state.json``; CheckpointError: it is damaged, StorageError: it cannot be read."""
    try:
        tree = json.loads((folder / STATE).read_text())
        if tree.get("schema") != SCHEMA:
            raise CheckpointError(f"{folder} has schema {tree.get('schema')}, this code reads {SCHEMA}")
        return TrainState(**tree)
    except OSError as error:
        raise StorageError(f"{folder / STATE} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / STATE} is damaged: {error}") from error


def seal(temporary: Path, final: Path, state: TrainState) -> None:
    """Make the folder whole and give it its name; every byte is on disk before the name appears.

    It is the newest from then on: checkpoints of later steps are removed, which loading walked past as damaged.

    Raises:
        OSError: it could not be written, or a later one not be moved out of the way; nothing may be pruned then.
    """
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
    _drop_later(final)


def prune(root: Path, keep_last: int, keep_best: int) -> None:
    """Keep the newest, of which ``seal`` made the last one, and, besides, the best of those that were measured."""
    older = list_checkpoints(root.parent)[:-keep_last]
    losses = {folder: _val_loss(folder) for folder in list_checkpoints(root.parent)}
    measured = sorted((loss, folder) for folder, loss in losses.items() if loss is not None)
    best = [folder for _, folder in measured[:keep_best]]
    if best:
        _point(root / BEST, best[0])
    else:
        (root / BEST).unlink(missing_ok=True)  # of one that ``seal`` removed
    for folder in older:
        if folder not in best:
            shutil.rmtree(folder, ignore_errors=True)


def _step(folder: Path) -> int:
    return int(folder.name[5:])


def _drop_later(sealed: Path) -> None:
    """Remove the checkpoints of later steps; left there, they would count as the newest, and good ones be pruned."""
    for folder in list_checkpoints(sealed.parent.parent):
        if _step(folder) <= _step(sealed):
            continue
        logger.warning("checkpoint %s is removed: it was not whole, and the run goes on from %s", folder, sealed.name)
        # the name goes at once, whatever happens to the files; the next save sweeps what a kill leaves
        shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}.tmp")), ignore_errors=True)


def _val_loss(folder: Path) -> float | None:
    try:
        loss = read_state(folder).val_loss
    except (CheckpointError, StorageError):  # a damaged one is nobody's best
        return None
    return loss if loss is not None and math.isfinite(loss) else None


def _point(pointer: Path, folder: Path) -> None:
    temporary = pointer.with_name(f"{pointer.name}.tmp")
    temporary.write_text(folder.name)
    temporary.replace(pointer)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

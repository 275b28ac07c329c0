"""How the ranks of a training are started, and how each of them ends: pretraining's and fine-tuning's alike.

How a launch ended is left in its folder's ``exit_status``, the reason in ``failure``: those of the first rank to fail,
since the others fail of it. An end that all ranks agree on (done, preempted, diverged, refused) exits with 0, so that
torchrun neither restarts it nor prints a trace over its sentence; all others are restarted, from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist

from infra.errors import CheckpointError, ConfigError, ProjectError, TrainingError
from infra.launcher import EXIT_FILE, ExitStatus, Hosts, launch, report_exit
from infra.lifeline import die_with_torchrun
from infra.log import configure_logging
from model.train.checkpoint_folder import list_checkpoints
from model.train.run_folder import FAILURE, RANKS_LOCK, busy, hold_run, refuse_ranks

logger = logging.getLogger(__name__)


def launch_ranks(
    module: str,
    folder: Path,
    what: str,
    *,
    again: str,
    world_size: int,
    env: Mapping[str, str],
    max_restarts: int = 0,
    hosts: Hosts | None = None,
) -> None:
    """Run ``python -m module folder`` on this machine's ranks, and wait for the end.

    Args:
        module: the entry point, which calls ``run_as_rank``.
        folder: what the ranks read and write.
        what: the training, as the sentence of its end calls it.
        again: what goes on with it, for the same sentence.
        world_size: as for ``launch``, like all that follow.
        env: variables beside ours.
        max_restarts: how often all ranks are started again after one failed.
        hosts: None runs on this machine alone.

    Raises:
        ConfigError: ranks of an earlier launch are still at work in the folder, or the ranks refused the settings.
        TrainingError: the training diverged, was stopped by a signal, or lost a rank; the sentence says how to go on.
    """
    if hosts is None or hosts.number == 0:
        refuse_ranks(folder)
        (folder / FAILURE).unlink(missing_ok=True)
    environment = {"PYTHONWARNINGS": "ignore::FutureWarning", **env}  # DeepSpeed's older torch names, on every step
    status = launch(
        module, [str(folder)], world_size=world_size, run_dir=folder, env=environment, max_restarts=max_restarts,
        hosts=hosts,
    )  # fmt: skip
    if status is ExitStatus.DONE:
        return
    saved = list_checkpoints(folder)
    if status is ExitStatus.PREEMPTED:
        kept = f"saved as {saved[-1].name}" if saved else "before anything was saved"
        raise TrainingError(f"{what} was stopped by a signal, {kept}; {again} goes on")
    reason = _failure(folder)
    if status is ExitStatus.REFUSED:
        raise ConfigError(reason)
    cure = f"{again} goes on from the newest whole checkpoint" if saved else "its log is above"
    raise TrainingError(f"{what} ended as {status.name.lower().replace('_', ' ')}: {reason}; {cure}")


def run_as_rank(folder: Path, work: Callable[[], ExitStatus], *, memory_cure: str) -> int:
    """Do a rank's work in ``folder`` and return its exit code; the reason of an end is left for ``launch_ranks``.

    Args:
        folder: of the launch; rank 0 holds it for as long as it lives.
        work: all that the rank does, from joining the process group on.
        memory_cure: what to do when a GPU's memory does not suffice.

    Raises:
        Exception: what ``work`` raised and nobody expected, for its trace.
    """
    configure_logging()
    die_with_torchrun()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if os.environ.get("RANK", "0") == "0":
        if hold_run(folder, RANKS_LOCK) is None:  # another run's folder: nothing is left in it
            logger.error("%s", busy(folder))
            return 1
        for name in (EXIT_FILE, FAILURE):  # of the attempt before a restart
            (folder / name).unlink(missing_ok=True)
    try:
        status = work()
    except TrainingError as error:
        return _ended(folder, ExitStatus.DIVERGED, str(error), code=0)
    except CheckpointError as error:
        return _ended(folder, ExitStatus.REFUSED, str(error), code=0)
    except ConfigError as error:  # of this machine alone, or the command would have refused it
        return _ended(folder, ExitStatus.REFUSED, str(error), code=1)
    except torch.OutOfMemoryError as error:
        return _ended(folder, ExitStatus.OUT_OF_MEMORY, f"out of GPU memory ({error}); {memory_cure}", code=1)
    except (ProjectError, OSError) as error:
        return _ended(folder, ExitStatus.FAILED, str(error), code=1)
    except Exception as error:
        if not _tells_of_another(error):
            _ended(folder, ExitStatus.FAILED, f"{type(error).__name__}: {error}", code=1)
        raise
    if dist.get_rank() == 0:
        report_exit(folder, status)
    dist.barrier()  # other machines read it when their ranks have ended
    dist.destroy_process_group()
    return 0


def _ended(folder: Path, status: ExitStatus, sentence: str, *, code: int) -> int:
    logger.error("%s", sentence)
    with contextlib.suppress(OSError):  # another rank was first, or the disk is full
        with (folder / FAILURE).open("x", encoding="utf-8") as file:
            file.write(sentence)
        report_exit(folder, status)
    return code


def _tells_of_another(error: Exception) -> bool:
    """Whether a collective failed: then another rank has the reason, or was killed and has none."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def _failure(folder: Path) -> str:
    try:
        return (folder / FAILURE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return "a rank ended without a word (killed, or out of memory)"

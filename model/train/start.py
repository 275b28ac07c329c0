"""Where the ranks of a run start: on this machine, on several, or on one of a Ray cluster."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import torch

from infra.config import flat_tree, load_config
from infra.errors import CheckpointError, ConfigError, StorageError, TrainingError
from infra.launcher import Hosts
from infra.ray_job import ray_machines
from infra.run import CONFIG_FILE
from model.train.checkpoint_folder import list_checkpoints, read_state
from model.train.ranks import launch_ranks
from model.train.run_folder import WEIGHTS
from model.train_config import LaunchConfig, PretrainConfig

NODE_NUMBERS = ("NODE_RANK", "SLURM_NODEID", "JOB_COMPLETION_INDEX")
"""Where launchers of several machines leave a machine's number: by hand, Slurm, an indexed Kubernetes job."""
RAY_LOG = "ray.log"
APPEARS_S = 600
"""Seconds that the other machines wait for the run folder of machine 0."""


def is_follower(cfg: PretrainConfig) -> bool:
    """Return whether this machine only lends its ranks to a run that another machine owns; errors as ``join``."""
    return cfg.launch.nodes > 1 and _hosts(cfg.launch).number > 0


def join(cfg: PretrainConfig, run_dir: Path | None) -> None:
    """Start this machine's ranks for the run of machine 0, and wait for its end.

    Raises:
        ConfigError: the run folder is not named, does not appear here, or this machine does not know its number.
        TrainingError: see ``pretrain``.
    """
    folder = shared_folder(cfg, run_dir)
    end = time.monotonic() + APPEARS_S
    while not (folder / CONFIG_FILE).exists():
        if time.monotonic() > end:
            raise ConfigError(
                f"{folder / CONFIG_FILE} of machine 0 did not appear here in {APPEARS_S} s; the run folder must lie "
                "on a file system that all machines share"
            )
        time.sleep(1)
    owners = load_config(PretrainConfig, folder / CONFIG_FILE)
    if is_finished(owners, folder):
        return
    start_ranks(
        owners.model_copy(update={"launch": cfg.launch, "world_size": cfg.world_size or owners.world_size}), folder
    )


def shared_folder(cfg: PretrainConfig, run_dir: Path | None) -> Path:
    """Return the run folder of a run on several machines; ConfigError when none is named."""
    if run_dir is None:
        raise ConfigError(f"a run on {cfg.launch.nodes} machines needs a named run folder that all see; add --run DIR")
    return run_dir


def on_ray(cfg: PretrainConfig, run_dir: Path | None) -> Path:
    """Run ``marlin pretrain`` on a machine of the Ray cluster; return the run folder, which both machines see.

    Raises:
        ConfigError: the run folder is not named, or the cluster has no such machine.
        TrainingError: with the last line of its output.
    """
    if run_dir is None:
        raise ConfigError("a run on Ray needs a named run folder that this machine and the cluster see; add --run DIR")
    tree = cfg.model_copy(update={"launch": cfg.launch.model_copy(update={"ray_gpus": None})}).model_dump(mode="json")
    settings = [f"{key}={json.dumps(value)}" for key, value in flat_tree(tree).items()]
    reserved = {"gpus": cfg.launch.ray_gpus or 0, "cpus": cfg.world_size or 1, "retries": cfg.launch.max_restarts}
    with ray_machines(**reserved) as machines:
        run_dir.mkdir(parents=True, exist_ok=True)
        arguments = ["pretrain", "--run", str(run_dir.absolute()), *settings]
        code, last = machines.run("flows.cli", arguments, log=run_dir / RAY_LOG)
    if code:
        raise TrainingError(f"the Ray cluster says: {last} (all of it is in {run_dir / RAY_LOG})")
    return run_dir


def is_finished(cfg: PretrainConfig, run_dir: Path) -> bool:
    """Return whether the run in this folder has nothing left to train."""
    return (run_dir / WEIGHTS).exists() and finished_steps(run_dir) >= cfg.steps


def finished_steps(run_dir: Path) -> int:
    """Return the step of the newest checkpoint that says which it is of, 0 without one; contents are not compared."""
    for folder in reversed(list_checkpoints(run_dir)):
        with contextlib.suppress(CheckpointError, StorageError):
            return read_state(folder).step
    return 0


def start_ranks(cfg: PretrainConfig, run_dir: Path) -> None:
    """Start this machine's ranks and wait for the end; errors as ``launch_ranks``."""
    launch_ranks(
        "model.train.worker", run_dir, "pretraining", again=f"the same command with --run {run_dir}",
        world_size=cfg.ranks_per_node, env={"DS_ACCELERATOR": "cuda" if torch.cuda.is_available() else "cpu"},
        max_restarts=cfg.launch.max_restarts, hosts=_hosts(cfg.launch) if cfg.launch.nodes > 1 else None,
    )  # fmt: skip


def _hosts(cfg: LaunchConfig) -> Hosts:
    number = cfg.node_rank
    if number is None:
        found = [os.environ[name] for name in NODE_NUMBERS if os.environ.get(name, "").isdigit()]
        number = int(found[0]) if found else None
    if number is None or number >= cfg.nodes:
        raise ConfigError(
            f"which of the {cfg.nodes} machines is this? Set launch.node_rank (or NODE_RANK) to a number from 0 to "
            f"{cfg.nodes - 1}"
        )
    return Hosts(cfg.nodes, str(cfg.rendezvous), number)

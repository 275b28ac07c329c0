"""How ranks end, and what the command that started them says of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import ConfigError, ProjectError, TrainingError
from infra.launcher import ExitStatus
from model.train import ranks, start
from model.train.ranks import launch_ranks
from model.train.run_folder import RANKS_LOCK, alone_in, hold_run, release_run
from model.train_config import PretrainConfig

RANK = """
import os, signal, sys
from pathlib import Path
import torch.distributed as dist
from infra.errors import CheckpointError
from model.train.ranks import run_as_rank

folder = Path(sys.argv[1])

def work():
    order = (folder / "order").read_text()
    if order == "surprise":
        raise ValueError("betas must be below 1")
    if order == "refuse":
        raise CheckpointError("no room")
    if order == "another":
        raise dist.DistNetworkError("Connection closed by peer")

raise SystemExit(run_as_rank(folder, work, memory_cure=""))
"""


@pytest.mark.parametrize(
    ("order", "error", "said"),
    [
        ("surprise", TrainingError, "ended as failed: ValueError: betas must be below 1; its log is above"),
        ("refuse", ConfigError, "^no room$"),
        ("another", TrainingError, "a rank ended without a word"),
    ],
)
def test_the_command_says_what_a_rank_died_of(tmp_path: Path, order: str, error: type[ProjectError], said: str) -> None:
    """Catches an error nobody listed that is told as "killed, or out of memory", and a lost peer told as the cause."""
    (tmp_path / "ranks.py").write_text(RANK)
    (tmp_path / "order").write_text(order)
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    with pytest.raises(error, match=said):
        launch_ranks("ranks", tmp_path, "training", again="the same command", world_size=1, env=env)


def test_a_rank_in_another_run_s_folder_leaves_nothing_there(tmp_path: Path) -> None:
    """Catches a refused rank that ends the live run's record as "refused: in use"."""
    lock = hold_run(tmp_path, RANKS_LOCK)
    assert lock is not None
    (tmp_path / "order").write_text("surprise")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", RANK, str(tmp_path)], capture_output=True, text=True, timeout=120)
    with pytest.raises(ConfigError, match="in use"), alone_in(tmp_path):
        pass  # nor does another command, though the one that started these ranks is gone
    release_run(lock)
    assert (done.returncode, "in use" in done.stderr) == (1, True)
    assert sorted({path.name for path in tmp_path.iterdir()} - {"lock"}) == before


def test_what_goes_on_with_a_stopped_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches "the same command goes on" of a command that made its run folder itself: it would make another."""
    monkeypatch.setattr(ranks, "launch", lambda *_, **__: ExitStatus.PREEMPTED)
    with pytest.raises(TrainingError, match=rf"the same command with --run {tmp_path} goes on"):
        start.start_ranks(PretrainConfig(world_size=1), tmp_path)

"""The engine scenarios that a module asks for, run once on one rank and once on two."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def torchrun(module: str, *arguments: Path | str, world: int) -> None:
    """Run a module of the tests on ``world`` ranks of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "-m", module, *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def run_scenarios(out: Path, part: str, world: int) -> dict[str, Any]:
    """Run every scenario of one part on ``world`` ranks."""
    torchrun("tests.support.engine_scenarios", out, part, world=world)
    return torch.load(out / "results.pt", weights_only=False)


@pytest.fixture(scope="module")
def one_rank(request, tmp_path_factory) -> dict[str, Any]:
    """Results on one rank, of the part that the module names."""
    return run_scenarios(tmp_path_factory.mktemp("one-rank"), request.module.PART, 1)


@pytest.fixture(scope="module")
def two_ranks(request, tmp_path_factory) -> dict[str, Any]:
    """Results on two ranks."""
    return run_scenarios(tmp_path_factory.mktemp("two-ranks"), request.module.PART, 2)


@pytest.fixture(params=["one_rank", "two_ranks"])
def any_world(request) -> dict[str, Any]:
    """Results on one rank, then on two."""
    return request.getfixturevalue(request.param)

"""One run on two machines: two launchers that meet over TCP on the loopback interface."""

from __future__ import annotations

import socket

import psutil
import pytest
import torch
from safetensors.torch import load_file

from model.train.run_folder import WEIGHTS
from tests.fault.test_pretrain_kill import PATIENCE_S, Runs, ranks_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def alone(runs) -> dict[str, torch.Tensor]:
    """Weights of the same run on one machine."""
    return runs.finish("alone")


@pytest.mark.parametrize("lost", ["a rank", "a machine"])
def test_two_machines_are_one_run_whatever_is_lost(runs, alone, lost):
    """Catches two runs in one folder, a machine left behind by a restart, and other bits than of one machine.

    Machine 1 loses its rank, or everything at once, and is then started again as an operator would.
    """
    name = lost.replace(" ", "-")
    meeting = ("launch.nodes=2", f"launch.rendezvous=127.0.0.1:{free_port()}")
    machines = {number: runs.start(name, *meeting, NODE_RANK=str(number)) for number in (1, 0)}
    runs.wait_for_step(name, 5)
    assert [len(ranks_of(machine)) for machine in machines.values()] == [1, 1]
    if lost == "a rank":
        ranks_of(machines[1])[0].kill()
    else:
        for process in (psutil.Process(machines[1].pid), *psutil.Process(machines[1].pid).children(recursive=True)):
            process.kill()
        machines[1].wait()
        machines[1] = runs.start(name, *meeting, NODE_RANK="1")
    assert [machine.wait(PATIENCE_S) for machine in machines.values()] == [0, 0]
    assert "resuming after step" in (runs.folder / f"{name}.log").read_text()
    weights = load_file(runs.folder / name / WEIGHTS)
    assert all(torch.equal(weights[key], alone[key]) for key in alone)

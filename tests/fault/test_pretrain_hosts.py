"""One run on two machines: two launchers that meet over TCP on the loopback interface."""

from __future__ import annotations

import socket

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


def test_two_machines_are_one_run_and_a_rank_lost_on_one_restarts_both(tmp_path):
    """Catches two runs in one folder, a machine left behind by a restart, and other bits than of one machine."""
    runs = Runs(tmp_path)
    alone = runs.finish("alone")
    meeting = ("launch.nodes=2", f"launch.rendezvous=127.0.0.1:{free_port()}")
    machines = [runs.start("both", *meeting, NODE_RANK=str(number)) for number in (1, 0)]
    runs.wait_for_step("both", 5)
    assert [len(ranks_of(machine)) for machine in machines] == [1, 1]
    ranks_of(machines[0])[0].kill()
    assert [machine.wait(PATIENCE_S) for machine in machines] == [0, 0]
    assert "resuming after step" in (tmp_path / "both.log").read_text()
    weights = load_file(tmp_path / "both" / WEIGHTS)
    assert all(torch.equal(weights[key], alone[key]) for key in alone)

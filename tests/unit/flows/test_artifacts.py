"""What a run shows, and that showing it ends nothing."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from prefect.exceptions import ObjectNotFound, TerminationSignal

from flows import artifacts
from flows.artifacts import ShownProgress
from flows.job import run_job
from tests.unit.flows.test_job import work_a_while

STATE = {"label": "work", "unit": "piece", "done": 1, "total": 4, "rate": 2.0, "eta_s": 1.5, "note": "anna.mp4"}


class Server:
    """Takes artifacts, or raises what it is told to."""

    def __init__(self) -> None:
        self.shown: list[float] = []
        self.error: BaseException | None = None

    def create(self, percent: float, **_: Any) -> uuid.UUID:
        return self.update(uuid.uuid4(), percent)

    def update(self, number: uuid.UUID, percent: float, **_: Any) -> uuid.UUID:
        if self.error is not None:
            raise self.error
        self.shown.append(percent)
        return number


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """What stands for Prefect's server."""
    made = Server()
    monkeypatch.setattr(artifacts, "create_progress_artifact", made.create)
    monkeypatch.setattr(artifacts, "update_progress_artifact", made.update)
    return made


def test_a_server_that_is_away_does_not_end_the_work(server, tmp_path, monkeypatch):
    """Catches a training of days that is told to end since a minute's outage hid its progress."""
    server.error = httpx.ConnectError("refused")
    assert run_job(work_a_while, tmp_path, folder=tmp_path, on_progress=ShownProgress("p")) is None


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), ObjectNotFound(KeyError("gone"))])
def test_an_outage_is_warned_of_once_and_then_progress_is_shown_again(server, caplog, error):
    show = ShownProgress("p")
    for outage in range(2):
        show(STATE)
        server.error = error
        show(STATE)
        show(STATE)
        assert caplog.text.count("the work goes on") == outage + 1
        server.error = None
    show(STATE)
    assert server.shown == [25.0] * 3


@pytest.mark.parametrize("error", [TerminationSignal(signal=15), KeyboardInterrupt(), TimeoutError()])
def test_what_ends_a_run_passes(server, error):
    """Catches a cancelled run that goes on."""
    server.error = error
    with pytest.raises(type(error)):
        ShownProgress("p")(STATE)

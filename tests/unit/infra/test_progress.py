"""A person, and a flow in another process, can follow the work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.progress import PROGRESS_FILE, Progress, format_seconds, progress_line


def test_a_resumed_count_does_not_flatter_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps done before a restart cost this process no time; counting them would promise far too early an end."""
    clock = iter([0.0])
    monkeypatch.setattr("infra.progress.time.monotonic", lambda: next(clock, 10.0))
    progress = Progress("pretrain", 200, unit="step", initial=100, enabled=False)
    progress.update(20)
    state = progress.snapshot()
    assert (state["done"], state["rate"], state["eta_s"]) == (120, 2.0, 40.0)


def test_the_file_holds_the_last_state_and_no_temporary_name_stays(tmp_path: Path) -> None:
    with Progress("ingest", 3, unit="video", folder=tmp_path, every_s=0) as progress:
        progress.update(note="a.mp4")
        progress.update(2)
    state = json.loads((tmp_path / PROGRESS_FILE).read_text())
    assert (state["done"], state["total"], state["note"]) == (3, 3, "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == [PROGRESS_FILE]


def test_logs_get_a_line_now_and_then_and_not_one_per_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pretrain", 1000, unit="step", every_s=3600) as progress:
        for _ in range(1000):
            progress.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # how it began and how it ended
    assert "1000/1000 step (100%)" in lines[-1]


def test_work_that_fails_still_shows_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with Progress("ingest", 9, unit="video", every_s=3600) as progress:
            progress.update(4)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        work()
    assert "4/9 video" in capsys.readouterr().err.splitlines()[-1]


def test_other_ranks_show_and_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pretrain", 2, unit="step", folder=tmp_path, every_s=0, enabled=False) as progress:
        progress.update(2)
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().err


def test_slow_work_is_told_in_seconds_a_unit_and_an_unknown_total_has_no_share() -> None:
    state = {"label": "ingest", "unit": "video", "done": 1, "total": None, "rate": 0.25, "eta_s": None, "note": ""}
    assert progress_line(state) == "ingest 1 video 4.0 s/video"
    assert progress_line(state | {"total": 4, "eta_s": 90.0}) == "ingest 1/4 video (25%) 4.0 s/video, 1m30s left"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0s"), (59.7, "1m00s"), (3599.6, "1h00m"), (7384, "2h03m")])
def test_seconds_are_rounded_before_they_are_split(seconds: float, text: str) -> None:
    """Splitting first would show 60s and 59m60s."""
    assert format_seconds(seconds) == text

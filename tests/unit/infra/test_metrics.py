"""Numbers over steps survive kills and resumes."""

from __future__ import annotations

from pathlib import Path

from infra.metrics import METRICS_FILE, open_metrics, read_metrics


def test_what_is_logged_is_on_disk_at_once_and_on_the_board(tmp_path: Path) -> None:
    """Read before ``close``: a killed run must keep its curve."""
    sink = open_metrics(tmp_path)
    sink.log(1, {"loss/reconstruction": 0.5})
    assert read_metrics(tmp_path) == [{"step": 1, "loss/reconstruction": 0.5}]
    sink.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_steps_done_again_after_a_resume_count_once_and_the_newest_wins(tmp_path: Path) -> None:
    """Without it a loss curve runs backwards at every resume."""
    for values in ({1: 0.9, 2: 0.8, 3: 0.7}, {2: 0.81, 3: 0.71, 4: 0.6}):
        sink = open_metrics(tmp_path)
        for step, loss in values.items():
            sink.log(step, {"loss": loss})
        sink.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 0.9), (2, 0.81), (3, 0.71), (4, 0.6)]


def test_a_line_torn_by_a_kill_is_left_out(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_torn_line_costs_no_line_of_the_run_that_continues(tmp_path: Path) -> None:
    """Catches a resumed run whose first numbers are appended to what a kill left of the last line."""
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    sink = open_metrics(tmp_path)
    sink.log(2, {"loss": 0.4})
    sink.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_other_ranks_write_nothing_and_a_run_without_numbers_reads_as_empty(tmp_path: Path) -> None:
    sink = open_metrics(tmp_path, enabled=False)
    sink.log(1, {"loss": 1.0})
    sink.close()
    assert not list(tmp_path.iterdir())
    assert read_metrics(tmp_path) == []

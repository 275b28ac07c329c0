"""What is kept of a run's checkpoints, on folders of a few bytes."""

import math
import shutil
from pathlib import Path

import pytest

from infra.errors import StorageError
from model.data.batch import LoaderState
from model.train.checkpoint_folder import (
    BEST,
    FOLDER,
    LATEST,
    STATE,
    TrainState,
    check,
    list_checkpoints,
    newest_checkpoint,
    prune,
    seal,
)
from model.train.start import finished_steps

DATA = "G/weights.pt"


def _save(
    run_dir: Path, step: int, val_loss: float | None = None, keep_last: int = 2, data: bytes = b"weights"
) -> None:
    temporary = run_dir / FOLDER / f"step-{step:06d}.tmp"
    (temporary / DATA).parent.mkdir(parents=True)
    (temporary / DATA).write_bytes(data)
    state = TrainState(step, LoaderState(version=1, seed=0, clips_seen=step), "digest", 2, val_loss=val_loss)
    seal(temporary, temporary.with_suffix(""), state)
    prune(run_dir / FOLDER, keep_last, keep_best=1)


def _names(run_dir: Path) -> list[str]:
    return [path.name for path in list_checkpoints(run_dir)]


@pytest.fixture
def fallen_back(tmp_path: Path) -> Path:
    """A run whose two newest checkpoints, the best among them, are damaged: it goes on from step 1000."""
    for step, loss in ((1000, None), (2000, 0.5), (3000, 0.4)):
        _save(tmp_path, step, loss, keep_last=3)
    for name in ("step-002000", "step-003000"):
        (tmp_path / FOLDER / name / DATA).write_bytes(b"other bytes")
    assert _names(tmp_path) == ["step-001000", "step-002000", "step-003000"]
    assert newest_checkpoint(tmp_path) == tmp_path / FOLDER / "step-001000"
    return tmp_path


def test_what_is_saved_after_a_fall_back_outlives_the_damaged_ones_of_later_steps(fallen_back: Path) -> None:
    """Catches damaged folders that count as newest and best, and every good checkpoint pruned for them."""
    _save(fallen_back, 1500)
    root = fallen_back / FOLDER
    assert _names(fallen_back) == ["step-001000", "step-001500"]
    assert all(check(folder) is None for folder in list_checkpoints(fallen_back))
    assert (root / LATEST).read_text() == "step-001500"
    assert sorted(path.name for path in root.iterdir()) == [LATEST, "step-001000", "step-001500"]
    assert not (root / BEST).exists()  # it named one that is gone


@pytest.mark.parametrize("failing", ["rename", "rmtree"])
def test_a_death_while_damaged_ones_are_removed_leaves_the_good_ones(
    fallen_back: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Catches pruning that goes on with a damaged one in the list, or a list that has it back after the death."""
    with monkeypatch.context() as patch:
        if failing == "rename":
            real = Path.rename
            patch.setattr(Path, "rename", lambda path, to: real(path, to) if "1500" in path.name else _die())
        else:
            patch.setattr(shutil, "rmtree", lambda path, **_: None if "1500" in path.name else _die())
        with pytest.raises(OSError, match="died"):
            _save(fallen_back, 1500)
    assert newest_checkpoint(fallen_back) == fallen_back / FOLDER / "step-001500"
    assert "step-001000" in _names(fallen_back)
    _save(fallen_back, 1600)
    assert _names(fallen_back) == ["step-001500", "step-001600"]


def test_damaged_files_that_cannot_be_deleted_displace_no_good_checkpoint(
    fallen_back: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a removal that fails in silence."""
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: None)
    _save(fallen_back, 1500)
    assert _names(fallen_back)[-1] == "step-001500"


def test_a_loss_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    """Catches NaN sorted first, since nothing is less: the weights that diverged would be kept and called best."""
    for step, loss in ((1000, math.nan), (2000, 0.5), (3000, 0.6)):
        _save(tmp_path, step, loss)
    assert (tmp_path / FOLDER / BEST).read_text() == "step-002000"


def test_a_checkpoint_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    """Catches an input/output error of one file that ends every restart, with a whole checkpoint beside it."""
    _save(tmp_path, 1000)
    _save(tmp_path, 2000, data=b"")
    newest = tmp_path / FOLDER / "step-002000"
    (newest / DATA).unlink()
    (newest / DATA).symlink_to("/proc/self/mem")  # a regular file of no bytes, whose first byte gives EIO
    assert newest_checkpoint(tmp_path) == tmp_path / FOLDER / "step-001000"
    shutil.rmtree(tmp_path / FOLDER / "step-001000")
    with pytest.raises(StorageError, match=rf"{DATA} cannot be read \(Input/output error\)"):  # may pass: no refusal
        newest_checkpoint(tmp_path)


def test_steps_are_counted_without_a_state_that_is_damaged(tmp_path: Path) -> None:
    """Catches a damaged state.json of the newest whose error takes the place of the reason why the run ended."""
    assert finished_steps(tmp_path) == 0
    for step in (1000, 2000):
        _save(tmp_path, step)
    assert finished_steps(tmp_path) == 2000
    for damaged in ("{", "[]"):
        (tmp_path / FOLDER / "step-002000" / STATE).write_text(damaged)
        assert finished_steps(tmp_path) == 1000


def _die() -> None:
    raise OSError("died")

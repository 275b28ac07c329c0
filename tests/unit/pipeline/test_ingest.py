"""What an ingest takes for its own, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.storage import open_storage
from pipeline.config import IngestConfig
from pipeline.dry_run import plan_ingest
from pipeline.ingest import _sweep, ingest

FOREIGN = (
    "work/precious.txt", "work/platform/server.db", "work/platform/.tmp-x", "units/unit1.md", "staged/x",
    "notes/.tmp-draft.txt", "shards/other-000000.tar",
)  # fmt: skip


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("there", FOREIGN)
def test_a_folder_that_is_no_dataset_is_refused_and_left_as_it_is(tmp_path: Path, there: str) -> None:
    """Catches `--out .`: a person's files below work/, units/ or staged/ deleted by the first ingest."""
    (tmp_path / "videos").mkdir()
    path = tmp_path / "mine" / there
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    cfg = IngestConfig(sources=(str(tmp_path / "videos"),), out=str(tmp_path / "mine"))
    for attempt in (ingest, plan_ingest):
        with pytest.raises(ConfigError, match=f"is no dataset and holds other things .{there.split('/')[0]}.; give"):
            attempt(cfg)
    assert _files(tmp_path / "mine") == {there}


def test_a_sweep_takes_what_ingests_leave_and_nothing_else(tmp_path: Path) -> None:
    """Catches somebody's files beside a dataset that go with the night's leftovers, or a folder that stays behind."""
    storage = open_storage(str(tmp_path))
    unit, video = "0123456789abcdef", "ab" * 32
    own = (
        f"work/{unit}/{video}.clips.tar", f"work/{unit}/{video}.regions.tar", f"work/{unit}/{video}.outcome.json",
        f"work/{unit}/.tmp-1", f"units/{unit}.done", f"staged/{video}", "staged/.tmp-2", "plan.json",
    )  # fmt: skip
    for name in (*own, *FOREIGN):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    _sweep(storage)
    assert _files(tmp_path) == set(FOREIGN)
    for name in FOREIGN:
        (tmp_path / name).unlink()
    (tmp_path / "work" / "platform").rmdir()
    _sweep(storage)
    assert not {"work", "units", "staged"} & {path.name for path in tmp_path.iterdir()}

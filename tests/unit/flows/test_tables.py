"""The tables: what is run for which cell, and how our numbers stand beside the published ones."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from flows import tables
from flows.tables_config import TablesConfig
from flows.tables_plan import Run, mode_of, plan_tables
from flows.tables_published import EMOTION, FAKE_AUC, MARLIN, TABLES, Row
from flows.tables_report import write_tables
from infra.errors import ConfigError, DatasetError
from model.adapt_config import AdaptConfig
from tests.support.clip_dataset import publish_again, write_clip_dataset


def _config(tmp_path, **changes) -> TablesConfig:
    return TablesConfig.model_validate(
        {"work": str(tmp_path), "data": {"deepfake": {"dataset": "d"}}, "pretrain": {"data": {"version": 1}}, **changes}
    )


def test_cells_that_tables_share_are_run_once(tmp_path):
    """Catches MARLIN pretrained for each table: the three ablations are eight encoders and not eleven."""
    plan = plan_tables(_config(tmp_path))
    pretrains = [run for run in plan.runs if run.command == "pretrain"]
    recipes = [(r.cfg.model.name, r.cfg.mask.strategy, r.cfg.adversarial.enabled) for r in pretrains]
    assert sorted(recipes) == [
        ("marlin_vit_base", "fasking", False), ("marlin_vit_base", "fasking", True), ("marlin_vit_base", "frame", True),
        ("marlin_vit_base", "random", True), ("marlin_vit_base", "tube", False), ("marlin_vit_base", "tube", True),
        ("marlin_vit_large", "fasking", True), ("marlin_vit_small", "fasking", True),
    ]  # fmt: skip
    adapts = [run for run in plan.runs if run.command == "adapt"]
    assert all(run.needs in {p.folder for p in pretrains} for run in adapts)
    assert not any(run.cfg.balanced for run in adapts), "published accuracies are of plain cross-entropy"
    assert plan == plan_tables(_config(tmp_path)), "a rerun finds the same folders"


def test_a_changed_recipe_is_another_cell(tmp_path):
    """Catches a finished cell that is taken for one with other settings."""
    one, two = (plan_tables(_config(tmp_path, pretrain={"seed": seed})) for seed in (0, 1))
    assert not {run.folder for run in one.runs} & {run.folder for run in two.runs}


def test_baselines_need_no_pretraining_and_few_shot_rides_with_its_row(tmp_path):
    data = {task: {"dataset": "d"} for task in ("deepfake", "appearance", "emotion")}
    plan = plan_tables(_config(tmp_path, tables=["deepfake", "attributes", "few_shot"], data=data))
    by_name = {(recipe.backbone, task): folder for (recipe, task), folder in plan.folders.items() if recipe != MARLIN}
    runs = {run.folder: run for run in plan.runs}
    assert runs[by_name["xception", "deepfake"]].needs is None
    assert runs[by_name["mvit_v2", "appearance"]].cfg.backbone == "mvit_v2"
    assert runs[plan.folders[MARLIN, "emotion"]].cfg.few_shot.fractions == (0.5, 0.1, 0.01)
    assert runs[plan.folders[MARLIN, "deepfake"]].cfg.few_shot.finetune
    assert not runs[by_name["marlin", "deepfake"]].cfg.few_shot.fractions, "VideoMAE has no few-shot rows"


def test_no_cell_measures_a_random_encoder_beside_its_own(tmp_path):
    """Catches tables that take twice as long, for rows that none of them shows."""
    runs = plan_tables(_config(tmp_path, adapt={"baseline": True})).runs
    assert not any(run.cfg.baseline for run in runs if run.command == "adapt")


def test_a_cell_is_fine_tuned_where_the_paper_does_and_fine_tuning_is_on():
    """Catches fine-tuned numbers in columns of linear probes, and empty cells where nothing was fine-tuned."""
    row, probed = Row("r", MARLIN, ()), Row("r", MARLIN, (), "LP")
    assert [mode_of(row, column, True) for column in (FAKE_AUC, EMOTION)] == ["FT", "LP"]
    assert mode_of(probed, FAKE_AUC, True) == "LP"
    assert mode_of(row, FAKE_AUC, False) == "LP"


def test_where_cells_run_changes_none_and_they_are_launched_once(tmp_path):
    """Catches a table that begins anew on a cluster, and a cell on Ray that sends itself to Ray and waits for room."""
    here, there = (plan_tables(_config(tmp_path, **more)) for more in ({}, {"launch": {"ray_gpus": 2}, "parallel": 9}))
    assert here == there
    launch = {"launch": {"ray_gpus": 2}}
    with pytest.raises(ValueError, match=r"leave pretrain\.launch\.ray_gpus out"):
        _config(tmp_path, **launch, pretrain=launch)
    with pytest.raises(ValueError, match=r"pretrain\.launch\.nodes=1, not 2"):
        _config(tmp_path, pretrain={"launch": {"nodes": 2, "rendezvous": "a:1"}})


def test_a_work_folder_keeps_the_versions_it_began_with(tmp_path):
    """Catches a night's ingest that makes every finished pretraining begin anew when the same command goes on."""
    dataset = str(write_clip_dataset(tmp_path / "set", [{"a": [40]}]))
    settings = {"data": {"deepfake": {"dataset": dataset}}, "pretrain": {"data": {"dataset": dataset}}}
    cfg = _config(tmp_path / "work", **settings)
    begun = tables.pinned(cfg)
    assert (begun.data["deepfake"].version, begun.pretrain.data.version) == (1, 1)
    publish_again(dataset)
    assert tables.pinned(cfg) == begun
    assert tables.pinned(_config(tmp_path / "other", **settings)).pretrain.data.version == 2
    settings["pretrain"]["data"]["version"] = 7
    with pytest.raises(DatasetError, match="has no version 7"):
        tables.pinned(_config(tmp_path / "other", **settings))


def test_a_cell_gets_a_gpu_that_is_free(tmp_path, monkeypatch):
    """Catches GPUs dealt out in turn: a second cell on one that still works, beside one that idles."""
    (tmp_path / "told.py").write_text(
        "import os, sys, time; time.sleep(float(sys.argv[1])); print(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    monkeypatch.setattr(tables, "MODULE", "told")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with tables.launcher(_config(tmp_path, parallel=2)) as start, ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(start, [seconds], tmp_path / f"{i}.log") for i, seconds in enumerate(("1.5", "0", "0"))]
        assert [call.result() for call in calls] == [(0, "3"), (0, "5"), (0, "5")]


def test_a_cell_that_was_cut_off_is_run_again_and_a_finished_one_is_not(tmp_path):
    """Catches a folder taken for a result: after a night's power cut, cells would stay empty for ever."""
    run, started = Run("adapt", AdaptConfig(), tmp_path / "cell"), []

    def start(arguments, log):
        started.append(log)
        return 0, ""

    run.folder.mkdir()
    tables.run_cell.fn(run, start)
    (run.folder / "result.json").touch()
    tables.run_cell.fn(run, start)
    assert started == [run.folder / "output.log"]


def test_a_cell_whose_process_is_killed_has_failed(tmp_path):
    """Catches a kernel out of memory that counts as success: the code of a killed process is negative."""
    with pytest.raises(tables.CellError, match="it ended with code -9"):
        tables.run_cell.fn(Run("adapt", AdaptConfig(), tmp_path / "cell"), lambda *_: (-9, ""))


def test_a_cell_that_is_killed_is_not_told_with_the_words_of_a_former_run(tmp_path, monkeypatch):
    """Catches a log that is appended to: a run killed without a word is given the reason of last night's."""
    (tmp_path / "dies.py").write_text(
        "import os, sys\nif sys.argv[1:]: print('no GPU', flush=True)\nos.kill(os.getpid(), 9)"
    )
    monkeypatch.setattr(tables, "MODULE", "dies")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert tables.run_here(["speaks"], tmp_path / "log", "") == (-9, "no GPU")
    assert tables.run_here([], tmp_path / "log", "") == (-9, "")
    assert (tmp_path / "log").read_text() == "no GPU\n"


def test_adaptations_wait_for_the_encoders_that_they_need(tmp_path, monkeypatch):
    """Catches adaptations started before, or beside, the pretrainings, which then find no encoder and fail."""
    plan, cell = plan_tables(_config(tmp_path, tables=["modules"])), tables.run_cell.fn

    def start(arguments, log):
        time.sleep(0.02)
        (log.parent / tables.DONE[arguments[0]]).touch()
        return 0, ""

    with ThreadPoolExecutor(len(plan.runs)) as pool:

        def submit(run, start):
            future = pool.submit(cell, run, start)
            return SimpleNamespace(result=lambda raise_on_failure: future.exception() or future.result())

        monkeypatch.setattr(tables, "run_cell", SimpleNamespace(submit=submit))
        assert tables.run_all(plan, start) == {}


def test_nothing_to_fill_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"no cell can be filled: set data\.TASK\.dataset .* deepfake"):
        plan_tables(_config(tmp_path, data={}))


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_every_published_row_is_as_long_as_its_columns(table):
    assert all(len(row.published) == len(table.columns) for row in table.rows)


def test_our_number_stands_beside_the_published_one_with_what_is_behind_it(tmp_path):
    """Catches a probe's number in a row of fine-tuning, and AUCs printed in percent."""
    cfg = _config(tmp_path, tables=["modules"])
    plan = plan_tables(cfg)
    figure = {"value": 0.8765, "low": 0.8, "high": 0.95}
    rows = [
        {"mode": "LP", "measures": {"accuracy": {**figure, "value": 0.1}, "auc": {**figure, "value": 0.2}}},
        {"mode": "FT", "measures": {"accuracy": figure, "auc": figure}},
    ]
    done = plan.folders[MARLIN, "deepfake"]
    done.mkdir(parents=True)
    result = {
        "rows": rows, "few_shot": [], "notes": ["A sentence."], "config_digest": "c" * 64, "dataset": "d", "version": 3,
        "weights_sha256": "w" * 64,
    }  # fmt: skip
    (done / "result.json").write_text(json.dumps(result))
    other = next(folder for folder in plan.folders.values() if folder != done)
    text = write_tables(cfg, plan, {other: "out of memory"}).read_text()
    line = next(line for line in text.splitlines() if line.startswith("| + Both (MARLIN)"))
    assert line.endswith("| – [73.70] | 87.65 (80.00–95.00) FT [89.43] | 0.8765 (0.8000–0.9500) FT [0.9305] |")
    assert "failed: out of memory [" in text
    assert "not run [" in text
    assert "`cccccccccccc` | d, 3 | `wwwwwwwwwwww`" in text
    assert "- A sentence." in text


def test_the_overall_accuracy_is_the_mean_of_appearance_and_action(tmp_path):
    data = {task: {"dataset": "d"} for task in ("appearance", "action")}
    cfg = _config(tmp_path, tables=["attributes"], data=data)
    plan = plan_tables(cfg)
    for task, value in (("appearance", 0.9), ("action", 0.96)):
        folder = plan.folders[MARLIN, task]
        folder.mkdir(parents=True)
        figure = {"value": value, "low": None, "high": None}
        rows = [{"mode": mode, "measures": {"accuracy": figure}} for mode in ("LP", "FT")]
        result = {
            "rows": rows, "few_shot": [], "notes": [], "config_digest": "c", "dataset": "d", "version": 3,
            "weights_sha256": "",
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result))
    text = write_tables(cfg, plan, {}).read_text()
    line = next(line for line in text.splitlines() if line.startswith("| MARLIN (LP)"))
    assert line.endswith("| 93.00 LP [93.57] |")


def test_a_few_shot_cell_shows_its_own_share_and_mode(tmp_path):
    """Catches the number of another share of the labels, or of the probe where the network was fine-tuned."""
    cfg = _config(tmp_path, tables=["few_shot"])
    plan = plan_tables(cfg)
    folder = plan.folders[MARLIN, "deepfake"]
    folder.mkdir(parents=True)
    shares = [(0.01, "LP"), (0.01, "FT"), (0.1, "LP"), (0.1, "FT"), (0.5, "LP"), (0.5, "FT")]
    few_shot = [
        {"fraction": fraction, "mode": mode, "measures": {"auc": [fraction + 0.2 * (mode == "FT"), 0.03]}}
        for fraction, mode in shares
    ]
    result = {
        "rows": [], "few_shot": few_shot, "notes": [], "config_digest": "c", "dataset": "d", "version": 3,
        "weights_sha256": "",
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    text = write_tables(cfg, plan, {}).read_text()
    cells = [line.split("|")[5].strip() for line in text.splitlines() if line.startswith(("| 50 %", "| 10 %", "| 1 %"))]
    assert cells == [
        "0.7000 ± 0.0300 FT [0.8681]",
        "0.3000 ± 0.0300 FT [0.7459]",
        "0.2100 ± 0.0300 FT [0.6252]",
    ]

"""The whole task on a small network: the table, the files, and what may be concluded from them."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from infra.errors import ConfigError, DatasetError, WeightsError
from infra.fetch import file_digest
from infra.storage import open_storage
from model.adapt import study as studying
from model.adapt.encoder import pretrained_encoder, random_encoder
from model.adapt.encoders import open_encoder
from model.adapt.report import RESULT_FILE, read_result
from model.adapt.run import _newer, adapt
from model.adapt_config import AdaptConfig, FinetuneConfig
from model.nets.config import model_config
from model.train.run_folder import hold_run, release_run
from model.weights import load_weights, save_weights
from pipeline.dataset.versions import bury_version
from tests.support.clip_dataset import publish_again
from tests.unit.model.adapt.conftest import TINY


def _config(weights, dataset, **changes) -> AdaptConfig:
    tree = {
        "task": "deepfake",
        "weights": str(weights),
        "data": {"dataset": str(dataset), "gap_frames": 16},
        "probe": {"epochs": 60},
        "finetune": {"epochs": 1, "batch_size": 8},
        "bootstrap": 100,
        "pictures": 2,
        "threads": 1,
        "device": "cpu",
    }
    return AdaptConfig.model_validate({**tree, **changes})


def _read(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def report(tiny_weights, drawn_dataset, tmp_path_factory):
    return adapt(_config(tiny_weights, drawn_dataset), tmp_path_factory.mktemp("run"))


def test_the_table_has_a_row_each_for_probe_baseline_and_fine_tuning(report):
    assert [(r.mode, r.init) for r in report.rows] == [("LP", "pretrained"), ("LP", "random"), ("FT", "pretrained")]
    for row in report.rows:
        assert 0 <= row.auc <= 1
        assert row.clips_test % 2 == 0
        assert row.people_test is None
    assert len({(r.clips_train, r.clips_val, r.clips_test) for r in report.rows}) == 1, "all rows see the same clips"
    assert (report.videos, report.people, report.fakes) == (4, None, "self_blend")


def test_the_files_tell_the_same_as_the_report(report):
    """Catches a result that cannot be recomputed from the scores beside it."""
    result = json.loads((report.run_dir / "result.json").read_text())
    assert result["people"] == "unknown"
    assert [r["measures"]["auc"]["value"] for r in result["rows"]] == [r.auc for r in report.rows]
    scores, windows = (_read(report.run_dir / name) for name in ("video_scores.csv", "scores.csv"))
    for row in report.rows:
        mine = [s for s in scores if (s["mode"], s["init"]) == (row.mode, row.init)]
        assert len(mine) == row.subjects_test
        right = [(float(s["score"]) > 0.5) == (s["label"] == "fake") for s in mine]
        assert np.mean(right) == pytest.approx(row.accuracy, abs=1e-6)
    assert len(windows) == 3 * report.rows[0].clips_test
    one, keys = scores[0], ("mode", "init", "video", "label")
    its = [float(w["score"]) for w in windows if [w[k] for k in keys] == [one[k] for k in keys]]
    assert np.mean(its) == pytest.approx(float(one["score"]), abs=1e-6)
    record = json.loads((report.run_dir / "run.json").read_text())
    assert record["outcome"] == "done"
    assert {i["name"] for i in record["inputs"]} == {"weights", "dataset"}
    assert (report.run_dir / "pairs.png").read_bytes()[:4] == b"\x89PNG"


def test_how_many_stand_behind_the_numbers_is_said(report):
    assert report.notes[0].startswith("Behind these numbers stand 4 videos of an unknown number of people")
    assert any("say nothing about other people" in note for note in report.notes)
    assert any("same people at different times" in note for note in report.notes)


def test_the_saved_head_and_the_adapted_encoder_can_be_used_again(report, tiny_weights):
    """Catches a head that only fits standardised features, or an adapted file that other commands cannot read."""
    head = load_file(report.run_dir / "head.safetensors")
    assert head["head.weight"].shape == (1, 48)
    adapted = load_weights(report.run_dir / "adapted.safetensors")
    encoder = pretrained_encoder(adapted)
    assert encoder.encoder.config.encoder_dim == 48
    assert adapted.provenance["kind"] == "adapt-deepfake"
    assert adapted.provenance["task"] == {"name": "deepfake", "kind": "binary", "outputs": ["fake"]}


def test_pooling_is_the_mean_over_tokens_first_and_then_layer_norm():
    """Catches the mean of normalised tokens, which is another feature than the released one."""
    config = model_config("marlin_vit_tiny", **TINY)
    pooled = random_encoder(config, 0).eval()
    with torch.no_grad():
        pooled.encoder.norm.weight.uniform_(0.5, 2.0)
        clip = torch.randint(0, 255, (2, 16, 64, 64, 3), dtype=torch.uint8)
        found = pooled(clip)
        tokens = pooled.encoder(clip.permute(0, 4, 1, 2, 3))
    assert found.shape == (2, 48)
    plain = (found / pooled.encoder.norm.weight).detach()
    assert plain.var(dim=1, unbiased=False).tolist() == pytest.approx([1, 1], rel=0.01)
    assert not torch.allclose(found, tokens.mean(dim=1), atol=1e-2)


def test_the_random_encoder_is_a_function_of_its_seed_and_leaves_global_randomness_alone():
    config = model_config("marlin_vit_tiny", **TINY)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two, other = random_encoder(config, 0), random_encoder(config, 0), random_encoder(config, 1)
    assert torch.equal(torch.rand(1), expected)
    pairs = [(one.state_dict()[n], two.state_dict()[n]) for n in one.state_dict()]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(one.state_dict()[n], v) for n, v in other.state_dict().items())


def test_licences_travel_and_a_restricted_part_is_said(report):
    """Catches a result that forgets what it stands on."""
    record = json.loads((report.run_dir / "run.json").read_text())
    assert all("drawn for tests" in entry["licence"] for entry in record["inputs"])
    assert any("may not be used commercially" in note and "WIDER FACE" in note for note in report.notes)
    adapted = load_weights(report.run_dir / "adapted.safetensors")
    assert any("WIDER FACE" in licence for licence in adapted.provenance["adapted_on_licences"])


def test_labelled_fakes_of_your_own_csv_and_few_shot(tiny_weights, labelled_dataset, tmp_path):
    """The same engine on a csv: probe, few-shot shares with their spread, and no word of blends."""
    (tmp_path / "l.csv").write_text("path,x,y\nr0.mp4,0,1\nf0.mp4,1,1\nr1.mp4,0,0\nf1.mp4,1,0\n")
    cfg = _config(
        tiny_weights, labelled_dataset, task="custom", finetune={"enabled": False}, baseline=False,
        data={"dataset": str(labelled_dataset), "gap_frames": 16, "labels": str(tmp_path / "l.csv")},
        few_shot={"fractions": [0.5], "seeds": 2},
    )  # fmt: skip
    report = adapt(cfg, tmp_path / "run")
    assert (report.fakes, report.people, report.kind, report.outputs) == ("labels", 2, "multilabel", ("x", "y"))
    assert len(report.rows) == 1
    assert set(report.rows[0].per_output) == {"x", "y"}
    (few,) = report.few_shot
    assert (few.mode, few.fraction, few.seeds, few.subjects) == ("LP", 0.5, 2, 2)
    assert few.clips_train < report.rows[0].clips_train
    assert not any("self-blended" in note for note in report.notes)
    adapted, encoder = load_weights(tmp_path / "run"), load_weights(tiny_weights).state
    assert all(torch.equal(adapted.state[name], encoder[name]) for name in encoder if name.startswith("encoder."))
    head = load_file(tmp_path / "run" / "head.safetensors")
    assert torch.equal(adapted.state["head.weight"], head["head.weight"])  # what `marlin predict` takes
    again = adapt(cfg, tmp_path / "run")
    assert again.rows[0].measures == report.rows[0].measures


def test_weighted_classes_are_said_and_can_be_switched_off(tiny_weights, labelled_dataset, tmp_path):
    """Catches an accuracy at 0.5 beside a published one that was trained on the natural shares, without a word."""
    (tmp_path / "l.csv").write_text("path,x\nr0.mp4,0\nf0.mp4,1\nr1.mp4,0\nf1.mp4,0\n")

    def notes(**changes):
        data = {"dataset": str(labelled_dataset), "gap_frames": 16, "labels": str(tmp_path / "l.csv")}
        cfg = _config(tiny_weights, labelled_dataset, **{"task": "custom", "data": data, **changes})
        study = studying.open_study(cfg, tmp_path, torch.device("cpu"))
        return study.plan.task.balanced, "".join(studying._training_notes(study, ()))

    balanced, said = notes()
    assert balanced
    assert "accuracy at 0.5 and ece, are those of equally frequent classes" in said
    assert notes(balanced=False) == (False, "")
    data = {"dataset": str(labelled_dataset), "gap_frames": 16}
    assert notes(task="deepfake", data=data) == (True, ""), "as many fakes as real videos"


def test_the_counts_of_a_few_shot_row_are_those_of_all_its_subsets(tiny_weights, drawn_dataset, tmp_path, monkeypatch):
    """Catches subjects of the last subset beside the clips of the first."""
    cfg = _config(
        tiny_weights, drawn_dataset, probe={"epochs": 2}, finetune={"enabled": False}, few_shot={"seeds": 2},
        data={"dataset": str(drawn_dataset), "split": "video"},
    )  # fmt: skip
    study = studying.open_study(cfg, tmp_path, torch.device("cpu"))
    train = study.plan.split.sides["train"]
    subjects = len({w.clip.subject for w in train})
    assert subjects > 1
    subsets = [train[:1], train]
    monkeypatch.setattr(studying, "few_shot_windows", lambda plan, fraction, seed: subsets[seed])
    (row,) = studying._few_shot(study, studying._features(study, study.choice), 0.5)
    assert (row.subjects, row.clips_train) == ((1 + subjects) / 2, 1 + len(train))  # each has a made fake beside it
    asks = "A linear probe was still improving at its last epoch (2); raise probe.epochs."
    assert studying._training_notes(study, [replace(row, best_epoch=1)]) == [asks]
    assert studying._training_notes(study, [replace(row, best_epoch=0)]) == []


def test_an_interrupted_run_goes_on_with_the_version_it_began_with(tiny_weights, labelled_dataset, tmp_path):
    """Catches hours of fine-tuning that are refused because a night published another version meanwhile."""
    dataset = shutil.copytree(labelled_dataset, tmp_path / "dataset")
    cfg = _config(tiny_weights, dataset, baseline=False, data={"dataset": str(dataset), "gap_frames": 16})
    begun = adapt(cfg, tmp_path / "run")
    (tmp_path / "run" / RESULT_FILE).unlink()  # as a kill leaves it before its last file
    publish_again(str(dataset))
    gone_on = adapt(cfg, tmp_path / "run")
    assert (begun.version, gone_on.version) == (1, 1)
    assert [row.measures for row in gone_on.rows] == [row.measures for row in begun.rows]
    (tmp_path / "run" / RESULT_FILE).unlink()
    bury_version(open_storage(str(dataset)), 1, 2)
    before = _state(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"other settings \(data.version: 1 then, 2 now\); take another --run"):
        adapt(cfg, tmp_path / "run")
    assert _state(tmp_path / "run") == before, "nothing of two versions is mixed"
    probe = cfg.model_copy(update={"finetune": FinetuneConfig(enabled=False)})
    assert adapt(probe, tmp_path / "probe").version == 2


def test_an_interrupted_fine_tuning_does_not_go_on_from_other_weights(tiny_weights, labelled_dataset, tmp_path):
    """Catches a result that names weights which its fine-tuning never began with."""
    weights = Path(shutil.copy(tiny_weights, tmp_path / "weights.safetensors"))
    cfg = _config(weights, labelled_dataset, baseline=False, finetune={"epochs": 1, "batch_size": 4})
    adapt(cfg, tmp_path / "run")
    (tmp_path / "run" / RESULT_FILE).unlink()
    loaded = load_weights(weights)
    changed = {name: value + 1e-3 for name, value in loaded.state.items()}
    save_weights(weights, changed, loaded.config, loaded.provenance)
    before = _state(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"no longer those that the fine-tuning in .* began with; bring"):
        adapt(cfg, tmp_path / "run")
    assert _state(tmp_path / "run") == before


def _state(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def finished(tiny_weights, labelled_dataset, tmp_path):
    """Settings of a finished run of a probe, and its folder."""
    dataset = shutil.copytree(labelled_dataset, tmp_path / "dataset")
    cfg = _config(
        tiny_weights, dataset, baseline=False, finetune={"enabled": False},
        data={"dataset": str(dataset), "gap_frames": 16},
    )  # fmt: skip
    return cfg, adapt(cfg, tmp_path / "run").run_dir


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 1}, r"other settings \(seed: 0 then, 1 now\); take another --run"),
        ({"task": "emotion"}, "other settings"),
        ({"task": "nothing"}, "there is no task"),
    ],
)
def test_a_refused_command_leaves_a_finished_run_as_it_was(finished, changes, sentence):
    """Catches a record that says failed, and names nothing, beside weights that are there."""
    cfg, folder = finished
    before = _state(folder)
    with pytest.raises(ConfigError, match=sentence):
        adapt(cfg.model_copy(update=changes), folder)
    assert _state(folder) == before


def test_a_finished_run_is_reported_and_says_what_is_newer(finished, tiny_weights):
    """Catches a folder that mixes two versions because an ingest came between two equal commands."""
    cfg, folder = finished
    before = _state(folder)
    again = adapt(cfg, folder)
    assert again == read_result(folder)
    publish_again(cfg.data.dataset)
    again = adapt(cfg, folder)
    assert again.version == 1
    assert "measured on version 1 of the dataset, and there is version 2; another --run measures" in again.notes[-1]
    pinned = adapt(cfg.model_copy(update={"data": cfg.data.model_copy(update={"version": 1})}), folder)
    assert pinned == read_result(folder), "who names a version asks for no other"
    assert _state(folder) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 2, "feature_batch": 3, "cache": "elsewhere", "device": "auto"},
        {"finetune": FinetuneConfig(enabled=False, workers=1, checkpoint_every=7)},
        {"data": "with a slash behind its dataset"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_finished_run_is_reported_under_settings_that_change_no_result(finished, changes):
    """Catches a result that cannot be seen again from a machine of other size, or with a / behind a folder."""
    cfg, folder = finished
    if "data" in changes:
        data = cfg.data.model_copy(update={"dataset": f"{cfg.data.dataset}/"})
        changes = {"data": data}
    threads = torch.get_num_threads()
    assert adapt(cfg.model_copy(update=changes), folder) == read_result(folder)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("left", ["outcome running", "no record", "half a record"])
def test_a_run_killed_before_its_record_was_written_gets_it_when_it_is_asked_for_again(finished, left):
    """Catches weights that lineage can never match: a record that says running, and names nothing, for good."""
    cfg, folder = finished
    file = folder / "run.json"
    record = json.loads(file.read_text())
    if left == "outcome running":
        file.write_text(json.dumps({**record, "outcome": "running", "outputs": []}))
    elif left == "no record":
        file.unlink()
    else:
        file.write_text("{")
    settings = (folder / "config.yaml").read_bytes()
    again = cfg.model_copy(update={"feature_batch": 3})
    lock = hold_run(folder)
    assert lock is not None
    with pytest.raises(ConfigError, match="in use"):
        adapt(again, folder)
    release_run(lock)
    assert adapt(again, folder) == read_result(folder)
    now = json.loads(file.read_text())
    assert (now["outcome"], now["outputs"], now["kind"]) == ("done", record["outputs"], "adapt-deepfake")
    if left == "outcome running":
        assert now["inputs"] == record["inputs"]
    assert {Path(entry["path"]).name: entry["digest"] for entry in now["outputs"]}["adapted.safetensors"] == (
        file_digest(folder / "adapted.safetensors")
    )
    assert (folder / "config.yaml").read_bytes() == settings, "what was measured was measured under these"


def test_a_finished_run_is_reported_without_reading_the_weights(finished, monkeypatch):
    """Catches gigabytes that are loaded to compare a digest."""
    cfg, folder = finished
    monkeypatch.setattr("model.weights._read", lambda file: pytest.fail(f"{file} was loaded"))
    assert adapt(cfg, folder) == read_result(folder)


@pytest.mark.parametrize("backbone", ["marlin", "r3d"])
def test_a_finished_run_is_reported_when_its_weights_are_gone(finished, tmp_path, backbone):
    """Catches a FileNotFoundError in place of a result."""
    cfg = finished[0].model_copy(update={"backbone": backbone, "weights": str(tmp_path / "gone.pt")})
    assert list(_newer(cfg, SimpleNamespace(weights_sha256="0" * 64, version=1))) == []


def test_a_finished_run_says_that_its_weights_are_others_by_now(finished, tiny_weights, tmp_path):
    """Catches a result that is taken for that of an encoder which was trained further."""
    cfg, _ = finished
    mine = cfg.model_copy(update={"weights": str(shutil.copy(tiny_weights, tmp_path / "mine.safetensors"))})
    adapt(mine, tmp_path / "other")
    loaded = load_weights(tiny_weights)
    save_weights(tmp_path / "mine.safetensors", loaded.state, loaded.config, {**loaded.provenance, "steps": 2})
    assert "no longer those that were measured" in adapt(mine, tmp_path / "other").notes[-1]


def test_a_run_folder_in_use_is_left_as_it_is(finished, tmp_path):
    """Catches settings of a second command in the folder of the first, which reads them again after a kill."""
    cfg, folder = finished
    (folder / RESULT_FILE).unlink()
    before = _state(folder)
    lock = hold_run(folder)
    assert lock is not None
    with pytest.raises(ConfigError, match="in use"):
        adapt(cfg, folder)
    release_run(lock)
    assert _state(folder) == before
    adapt(cfg, folder)


def test_a_report_is_read_as_it_was_written(report):
    """Catches figures, intervals or unknown numbers of people that come back as something else."""
    assert read_result(report.run_dir) == report


def test_weight_files_say_whether_labels_were_learnt_and_how_faces_were_cut(report, finished, tiny_weights):
    """Catches pretraining's facts under those of adaptation, and a fine-tuned encoder that may be adapted again."""
    tuned = load_weights(report.run_dir / "adapted.safetensors").provenance
    assert tuned["pretraining"] == load_weights(tiny_weights).provenance
    assert tuned["labels_learnt"] == [f"deepfake of {report.dataset}, version 1"]
    with pytest.raises(WeightsError, match="has learnt labels"):
        open_encoder(AdaptConfig(task="deepfake", weights=str(report.run_dir)))
    assert open_encoder(AdaptConfig(task="deepfake", weights=str(finished[1]))).provenance["dataset"] == "somewhere"


def test_a_second_run_in_the_same_cache_gives_the_same_numbers(report, tiny_weights, drawn_dataset, tmp_path):
    """Catches randomness outside the seed, e.g. in the blends of the test side."""
    cfg = _config(tiny_weights, drawn_dataset, finetune={"enabled": False}, pictures=0)
    again = adapt(cfg, tmp_path)
    assert [r.auc for r in again.rows] == [r.auc for r in report.rows[:2]]
    assert [r.val_loss for r in again.rows] == pytest.approx([r.val_loss for r in report.rows[:2]], abs=1e-5)


def test_wrong_use_is_one_sentence(tiny_weights, drawn_dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"there is no task 'x'; there are deepfake, appearance, .*custom"):
        adapt(AdaptConfig(task="x"), tmp_path)
    with pytest.raises(ConfigError, match="no dataset is named"):
        adapt(AdaptConfig(task="deepfake", weights="w"), tmp_path)
    with pytest.raises(ConfigError, match="no weights are named"):
        adapt(_config("", drawn_dataset), tmp_path)
    with pytest.raises(DatasetError):
        adapt(_config(tiny_weights, tmp_path), tmp_path / "run")

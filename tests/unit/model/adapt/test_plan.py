"""What is refused before work begins: each way in which data can be wrong is one sentence, or counted when allowed."""

import pytest

from infra.errors import ConfigError, DatasetError, WeightsError
from model.adapt.encoders import open_encoder
from model.adapt.examples import list_clips
from model.adapt.plan import make_plan
from model.adapt_config import AdaptConfig
from pipeline.dataset.reader import open_dataset
from tests.unit.model.adapt.conftest import write_dataset


def _plan(folder, task="deepfake", **data):
    cfg = AdaptConfig.model_validate({"task": task, "weights": "w", "data": {"dataset": str(folder), **data}})
    reader = open_dataset(str(folder))
    return make_plan(cfg, reader, list_clips(reader), 16, 64)


def _csv(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return str(path)


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    """Two real videos for each side, and fakes of two methods of each, with people and an official split."""
    labels, videos = {}, {}
    for number in range(6):
        split = ("train", "val", "test")[number % 3]
        for name, method in (("r", ""), ("a", "FaceSwap"), ("b", "Deepfakes")):
            labels[f"{name}{number}"] = {
                "label": "fake" if method else "real", "manipulation": method or "none", "identity": f"p{number}",
                "split": split,
            }  # fmt: skip
            videos[f"{name}{number}"] = 1
    return write_dataset(tmp_path_factory.mktemp("methods") / "dataset", videos, labels)


def test_labelled_fakes_are_used_and_a_pair_stays_on_one_side(labelled_dataset):
    plan = _plan(labelled_dataset)
    assert plan.pixels.variants.name == "labels"
    assert {w.clip.identity for w in plan.windows} == {"p0", "p1"}


def test_without_labels_fakes_are_made_and_asking_for_labels_is_refused(drawn_dataset):
    assert _plan(drawn_dataset, gap_frames=16).pixels.variants.name == "self_blend"
    with pytest.raises(ConfigError, match=r"found none.*self_blend"):
        _plan(drawn_dataset, fakes="labels")


def test_a_known_fake_is_no_real_to_blend_from(labelled_dataset):
    plan = _plan(labelled_dataset, fakes="self_blend")
    assert {w.clip.name for w in plan.windows} == {"r0.mp4", "r1.mp4"}


def test_one_manipulation_and_cross_manipulation(methods):
    """Catches fakes of the held-out method in training, and of the others in the test."""
    one = _plan(methods, manipulation="FaceSwap")
    assert {w.clip.manipulation for w in one.windows} == {"", "FaceSwap"}
    assert one.split.kind == "manifest"
    cross = _plan(methods, held_out_manipulation="FaceSwap").split.sides
    methods_of = {side: {w.clip.manipulation for w in cross[side]} for side in cross}
    assert methods_of == {"train": {"", "Deepfakes"}, "val": {"", "Deepfakes"}, "test": {"", "FaceSwap"}}
    with pytest.raises(ConfigError, match=r"held_out_manipulation=Other leaves no fake on the test side"):
        _plan(methods, held_out_manipulation="Other")


def test_only_clips_with_the_wanted_labels(methods):
    assert {w.clip.name[0] for w in _plan(methods, where={"manipulation": "none"}, fakes="self_blend").windows} == {"r"}
    with pytest.raises(ConfigError, match=r"none of 18 clips has the labels of data\.where \(compression=c40\)"):
        _plan(methods, where={"compression": "c40"})


def test_a_label_without_video_and_a_video_without_label_are_refused_or_counted(labelled_dataset, tmp_path):
    """Catches partial data that is used without a word."""
    lines = "path,x\nr0.mp4,0\nf0.mp4,1\nr1.mp4,0\nf1.mp4,1\n"
    more = _csv(tmp_path, lines + "ghost.mp4,1\n")
    with pytest.raises(DatasetError, match=r"1 labels without a video \(the first, ghost\.mp4\), beside 16 labelled"):
        _plan(labelled_dataset, "custom", labels=more)
    assert "1 labels without a video" in _plan(labelled_dataset, "custom", labels=more, allow_partial=True).notes[0]
    less = _csv(tmp_path, "path,x\nr0.mp4,0\nf0.mp4,1\n")
    with pytest.raises(DatasetError, match="8 clips without a label"):
        _plan(labelled_dataset, "custom", labels=less)
    assert len(_plan(labelled_dataset, "custom", labels=less, allow_partial=True).windows) == 16
    nan = _csv(tmp_path, lines.replace("f1.mp4,1", "f1.mp4,nan"))
    with pytest.raises(DatasetError, match=r"4 labels that cannot be meant \(the first, clip .* of f1\.mp4: label 'x'"):
        _plan(labelled_dataset, "custom", labels=nan, kind="regression")


def test_one_class_only_is_refused(labelled_dataset, tmp_path):
    labels = _csv(tmp_path, "path,x,split\nr0.mp4,0,train\nf0.mp4,0,train\nr1.mp4,1,test\nf1.mp4,0,test\n")
    with pytest.raises(DatasetError, match=r"the train side holds one class only \(not x, \d+ samples\)"):
        _plan(labelled_dataset, "custom", labels=labels)


def test_a_leak_in_a_given_split_is_refused(labelled_dataset, tmp_path):
    """Catches trust in a split that puts one person on two sides."""
    text = "path,x,split,identity\nr0.mp4,0,train,p\nf0.mp4,1,train,q\nr1.mp4,0,test,p\nf1.mp4,1,test,r\n"
    with pytest.raises(DatasetError, match="leak: person p is on the test and the training side"):
        _plan(labelled_dataset, "custom", labels=_csv(tmp_path, text))


def test_an_empty_split_is_refused(labelled_dataset, tmp_path):
    text = "path,x,split\nr0.mp4,0,val\nf0.mp4,1,val\nr1.mp4,0,val\nf1.mp4,1,test\n"
    with pytest.raises(ConfigError, match="leaves no window for train"):
        _plan(labelled_dataset, "custom", labels=_csv(tmp_path, text), split="manifest")


def test_weights_of_another_size(tmp_path, tiny_weights):
    with pytest.raises(WeightsError, match="holds a marlin_vit_tiny, not a marlin_vit_base"):
        open_encoder(AdaptConfig(task="deepfake", weights=str(tiny_weights), model="marlin_vit_base"))

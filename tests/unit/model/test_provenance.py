"""What a weight file says of itself is anybody's text: it is read as far as it can be."""

import pytest

from model.provenance import crop_behind, crop_of, labels_behind

FACES = {"kind": "facexlib", "detector": "retinaface_mobile0.25", "a_later_setting": 1}


@pytest.mark.parametrize(
    ("told", "labels"),
    [
        ({"labels_learnt": None}, ()),
        ({"labels_learnt": None, "kind": "adapt-deepfake", "dataset": "d"}, ("deepfake of d, version None",)),
        ({"labels_learnt": "deepfake of d"}, ("deepfake of d",)),
        ({"labels_learnt": 5}, ("5",)),
        ({"labels_learnt": [], "kind": "adapt-deepfake"}, ()),
    ],
)
def test_labels_that_are_no_list_are_read_as_far_as_they_can_be(told, labels):
    """Catches a traceback, and a null that passes for an encoder which learnt nothing."""
    assert labels_behind(told) == labels


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        ({}, {}),
        ({"track": {"margin": 1.8}, "faces": FACES}, {"track": {"margin": 1.8}, "detector": "retinaface_mobile0.25"}),
        ({"faces": {"kind": "embedded", "score_threshold": 0.4}}, {"detector": "centerface"}),
        ({"faces": "drawn", "track": None}, {}),
    ],
)
def test_a_file_keeps_how_faces_were_cut_out_and_comes_back_the_same(recipe, kept):
    """Catches a file that only the release of its dataset can read."""
    assert crop_of(recipe) == crop_behind({"crop": crop_of(recipe)}) == kept


def test_the_detector_of_older_files_is_found_and_damaged_ones_say_nothing():
    assert crop_behind({"crop": {"faces": FACES}})["detector"] == "retinaface_mobile0.25"
    assert crop_behind({}) == crop_behind({"crop": None}) == crop_behind({"crop": ["x"]}) == {}

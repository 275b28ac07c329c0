import hashlib

import numpy as np
import pytest
import torch

from pipeline.config import FacexlibFaces
from pipeline.faces import parsing
from pipeline.faces.backend import build_parser
from pipeline.faces.facexlib_weights import FILES, WeightFile
from pipeline.faces.parsing import MODELS, NetworkParser, ParsingModel, with_sides
from pipeline.faces.regions import Region

EYES = np.array([[80, 90], [140, 90], [110, 120], [90, 150], [130, 150]], np.float32)

# facexlib's own comments in its inference scripts, v0.3.0
BISENET = (
    "background skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose"
    " mouth u_lip l_lip neck neck_l cloth hair hat"
)
PARSENET = (
    "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth"
    " u_lip l_lip hair hat ear_r neck_l neck cloth"
)
EXPECTED = {
    "skin": 1, "l_brow": 2, "r_brow": 2, "l_eye": 4, "r_eye": 4, "eye_g": 4, "nose": 6,
    "u_lip": 7, "mouth": 8, "l_lip": 9, "hair": 10,
}  # fmt: skip


@pytest.mark.parametrize(("name", "classes"), [("bisenet", BISENET), ("parsenet", PARSENET)])
def test_the_tables_map_every_class_of_each_networks_own_order(name, classes):
    """The two networks order the same 19 classes differently; one table for both would call hair a lip."""
    expected = [EXPECTED.get(word, 0) for word in classes.split()]
    assert MODELS[name].table_19.tolist() == expected
    assert len(expected) == 19


@pytest.fixture(params=["bisenet", "parsenet"])
def parser(request, tmp_path, monkeypatch) -> NetworkParser:
    """The real architecture with random weights from a file: the real ones are not shipped."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    path = tmp_path / "mirror" / FILES[request.param].name
    path.parent.mkdir()
    torch.save(MODELS[request.param].build().state_dict(), path)
    known = WeightFile(f"http://127.0.0.1:9/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest(), "none")
    monkeypatch.setitem(FILES, request.param, known)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return build_parser(FacexlibFaces(parser=request.param, weights=(str(path.parent),), device="cpu"))


def test_the_networks_load_strictly_and_label_crops(parser, monkeypatch):
    monkeypatch.setattr(parsing, "INPUT_SIZE", 128)  # the networks take any size, and 512 would be half a minute
    crops = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3)).astype(np.uint8)
    maps = parser.parse(crops, np.stack([EYES, EYES]))
    assert maps.shape == (2, 224, 224)
    assert maps.dtype == np.uint8
    assert maps.max() <= max(Region)
    assert len(np.unique(maps)) > 1
    assert parser.parse(crops[:0], np.zeros((0, 5, 2))).shape == (0, 224, 224)


class TwoClasses(torch.nn.Module):
    """Calls the left half of every picture class 0 and the right half class 10; remembers what it was shown."""

    def forward(self, input_RCHW):
        self.seen = input_RCHW
        logits_RCHW = torch.zeros(len(input_RCHW), 19, *input_RCHW.shape[2:])
        middle = input_RCHW.shape[3] // 2
        logits_RCHW[:, 0, :, :middle] = logits_RCHW[:, 10, :, middle:] = 1
        return [logits_RCHW]


@pytest.fixture
def two_classes(monkeypatch) -> NetworkParser:
    """A parser around that network, whose classes are LaPa's own."""
    model = ParsingModel(TwoClasses, (0.5, 0.4, 0.3), (0.5, 0.2, 0.1), np.arange(19, dtype=np.uint8))
    monkeypatch.setitem(MODELS, "parsenet", model)
    monkeypatch.setattr(parsing, "fetch_weights", lambda *_: None)
    monkeypatch.setattr(parsing, "load_weights", lambda *_: None)
    monkeypatch.setattr(parsing, "INPUT_SIZE", 8)
    return NetworkParser(FacexlibFaces(parser="parsenet", device="cpu"))


def test_the_network_sees_colours_between_0_and_1_less_the_mean_over_the_deviation(two_classes):
    """Catches bytes from 0 to 255, which a network of other numbers takes for white."""
    white = np.full((1, 20, 20, 3), 255, np.uint8)
    two_classes.parse(white, EYES[None])
    assert two_classes._net.seen[0, :, 0, 0].tolist() == pytest.approx([1, 3, 7])


def test_a_map_is_resized_without_inventing_classes(two_classes):
    """Catches class numbers mixed as colours are: between background and hair would lie skin, eyes and nose."""
    (labels,) = two_classes.parse(np.zeros((1, 20, 20, 3), np.uint8), EYES[None])
    assert set(labels.ravel().tolist()) == {Region.BACKGROUND, Region.HAIR}


def test_sides_follow_the_eyes_of_the_detector_also_on_a_tilted_head():
    labels = np.zeros((224, 224), np.uint8)
    labels[60:70, 60:100], labels[60:70, 120:160] = Region.LEFT_BROW, Region.RIGHT_BROW  # the wrong way round
    labels[85:95, 70:90], labels[85:95, 130:150] = Region.LEFT_EYE, Region.LEFT_EYE
    labels[150, 100:120] = Region.UPPER_LIP
    sided = with_sides(labels, EYES)
    assert sided[65, 80] == Region.RIGHT_BROW
    assert sided[65, 140] == Region.LEFT_BROW
    assert sided[90, 80] == Region.RIGHT_EYE
    assert sided[90, 140] == Region.LEFT_EYE
    assert np.array_equal(sided == Region.UPPER_LIP, labels == Region.UPPER_LIP)
    lying = with_sides(np.rot90(labels, -1), np.stack([224 - EYES[:, 1], EYES[:, 0]], axis=1))
    assert np.array_equal(lying, np.rot90(sided, -1))

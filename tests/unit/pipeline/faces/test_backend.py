import pytest

from infra.errors import WeightsError
from pipeline.config import EmbeddedFaces, FacexlibFaces
from pipeline.faces.backend import backend_licences, build_detector, build_parser, detector_name, parser_name


@pytest.mark.parametrize(
    ("cfg", "parts"),
    [
        (EmbeddedFaces(), ["centerface", "landmarks68"]),
        (FacexlibFaces(), ["retinaface_resnet50", "bisenet"]),
        (FacexlibFaces(detector="retinaface_mobile0.25", parser="parsenet"), ["retinaface_mobile0.25", "parsenet"]),
        (FacexlibFaces(parser="landmarks"), ["retinaface_resnet50", "landmarks68"]),
    ],
)
def test_each_part_states_its_licence_and_digest(cfg, parts):
    licences = backend_licences(cfg)
    assert [part["part"] for part in licences] == parts == [detector_name(cfg), parser_name(cfg)]
    for part in licences:
        assert part.keys() == {"part", "licence", "source", "sha256"}
        assert len(part["sha256"]) == 64
        assert "commercial" in part["licence"]


def test_the_embedded_back_end_is_what_it_is_named():
    assert build_detector(EmbeddedFaces()).name == "centerface"
    assert build_parser(EmbeddedFaces()).name == "landmarks68"
    assert build_parser(FacexlibFaces(parser="landmarks")).name == "landmarks68"


def test_absent_weights_are_an_error_and_nothing_falls_back(tmp_path, monkeypatch):
    """Data made silently by another network than the recipe names would be the worst of outcomes."""
    from pipeline.faces import facexlib_weights

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, file in facexlib_weights.FILES.items():
        gone = facexlib_weights.WeightFile("http://127.0.0.1:9/gone.pth", file.sha256, file.licence)
        monkeypatch.setitem(facexlib_weights.FILES, name, gone)
    cfg = FacexlibFaces(weights=(str(tmp_path / "nowhere"),), device="cpu")
    for build in (build_detector, build_parser):
        with pytest.raises(WeightsError, match="put the file with sha256"):
            build(cfg)

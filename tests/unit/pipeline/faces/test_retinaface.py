import numpy as np
import pytest
import torch

from pipeline.config import FacexlibFaces
from pipeline.faces.backend import build_detector
from pipeline.faces.boxes import iou_matrix
from pipeline.faces.centerface import CenterFaceDetector
from pipeline.faces.retinaface import anchor_boxes
from pipeline.media.decode import read_frames


@pytest.fixture(scope="module")
def detector(shared_weights, tmp_path_factory):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        cfg = FacexlibFaces(detector="retinaface_mobile0.25", weights=(str(shared_weights),), device="cpu")
        return build_detector(cfg)


@pytest.fixture(scope="module")
def faces(sample_videos):
    return read_frames(str(sample_videos / "WolfgangLanger_Pexels.mp4"), [0, 90, 180])


@pytest.mark.parametrize(("width", "height"), [(640, 352), (320, 480), (96, 33)])
def test_anchors_are_facexlibs(width, height):
    from facexlib.detection.retinaface import generate_config
    from facexlib.detection.retinaface_utils import PriorBox

    theirs = PriorBox(generate_config("mobile0.25"), image_size=(height, width)).forward().numpy()
    np.testing.assert_allclose(anchor_boxes(width, height), theirs * [width, height, width, height], atol=1e-3)


def test_it_finds_what_facexlibs_own_call_finds(detector, faces):
    """At the same size: BGR order, mean, decoding and suppression are all in this comparison."""
    frames = faces[:, :352]
    for frame, found in zip(frames, detector.detect(frames), strict=True):
        with torch.no_grad():
            theirs = detector._net.detect_faces(np.ascontiguousarray(frame[..., ::-1]), conf_threshold=0.8)
        assert len(theirs) == len(found.scores_N) == 1
        np.testing.assert_allclose(found.boxes_N4[0], theirs[0, :4], atol=0.05)
        np.testing.assert_allclose(found.scores_N[0], theirs[0, 4], atol=1e-4)
        np.testing.assert_allclose(found.landmarks_N52[0].ravel(), theirs[0, 5:], atol=0.05)


def test_both_back_ends_see_the_same_face(detector, faces):
    for a, b in zip(detector.detect(faces), CenterFaceDetector(480, 0.5).detect(faces), strict=True):
        assert iou_matrix(a.boxes_N4, b.boxes_N4).max() > 0.6
        size = np.ptp(b.boxes_N4[0, 1::2])
        assert np.abs(a.landmarks_N52[0] - b.landmarks_N52[0]).max() < 0.15 * size


def test_a_frame_without_a_face_and_an_empty_batch(detector, sample_videos):
    (found,) = detector.detect(read_frames(str(sample_videos / "no_face.mp4"), [50]))
    assert found.boxes_N4.shape == (0, 4)
    assert detector.detect(np.zeros((0, 64, 64, 3), np.uint8)) == []


def test_folded_norms_change_nothing(detector, shared_weights):
    """Bug caught: a norm folded into the wrong convolution, or one left behind (resnet50 has other places)."""
    from facexlib.detection.retinaface import RetinaFace
    from torch import nn

    from pipeline.faces.facexlib_weights import FILES, load_weights
    from pipeline.faces.retinaface import fold_norms

    for name in ("mobile0.25", "resnet50"):
        torch.manual_seed(0)
        net = RetinaFace(network_name=name, device="cpu")
        if name == "mobile0.25":
            load_weights(net, shared_weights / FILES["retinaface_mobile0.25"].name)
        net.eval()
        images = torch.randint(-120, 130, (1, 3, 96, 128)).float()
        with torch.inference_mode():
            before = net(images)
            fold_norms(net)
            after = net(images)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
        for one, other in zip(before, after, strict=True):
            assert (one - other).abs().max() <= 1e-4 * max(1.0, float(one.abs().max()))

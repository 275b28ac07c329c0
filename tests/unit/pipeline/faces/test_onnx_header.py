import numpy as np
import onnxruntime
import pytest

from infra.errors import WeightsError
from pipeline.faces.centerface import INPUT, OUTPUTS
from pipeline.faces.onnx_header import with_free_sizes
from pipeline.faces.package_weights import CENTERFACE, package_file


@pytest.fixture(scope="module")
def original():
    return package_file(*CENTERFACE).read_bytes()


def test_only_the_head_changes(original):
    """On the size that the file declares, the rewritten model must compute what the original does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    size = np.random.default_rng(0).integers(0, 255, (10, 3, 32, 32)).astype(np.float32)
    answers = []
    for model in (original, with_free_sizes(original, INPUT, OUTPUTS)):
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        answers.append(session.run(list(OUTPUTS), {"input.1": size}))
    for before, after in zip(*answers, strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-3, atol=1e-4)


def test_other_sizes_are_taken(original):
    session = onnxruntime.InferenceSession(
        with_free_sizes(original, INPUT, OUTPUTS), providers=["CPUExecutionProvider"]
    )
    assert session.run(["537"], {"input.1": np.zeros((2, 3, 64, 96), np.float32)})[0].shape == (2, 1, 16, 24)


@pytest.mark.parametrize("cut", [0, 1, 1000, 100_000])
def test_a_damaged_file_is_a_clear_error(original, cut):
    with pytest.raises(WeightsError, match="reinstall"):
        with_free_sizes(original[:cut], INPUT, OUTPUTS)

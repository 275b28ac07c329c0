"""Fine-tuning learns, keeps its best epoch, repeats itself exactly, and stops when it diverges."""

import pytest
import torch
from torch import nn

from infra.errors import TrainingError
from model.adapt.detector import Detector
from model.adapt.finetune import detector_scores, finetune
from model.adapt.pixels import ClipPixels, list_clips
from model.adapt.samples import choose_windows
from model.adapt_config import FinetuneConfig

CPU = torch.device("cpu")


class Edges(nn.Module):
    """A small convolutional encoder over the first and last frame."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(6, 8, 5, stride=4), nn.GELU(), nn.Conv2d(8, 8, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(4)
        )

    def forward(self, clip_BTHWC):
        ends = clip_BTHWC[:, [0, -1]].permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 255
        return self.layers(ends - ends.mean(dim=(2, 3), keepdim=True)).flatten(1)


def _detector() -> Detector:
    torch.manual_seed(0)
    return Detector(Edges(), nn.Linear(128, 1))


@pytest.fixture
def pixels(reader):
    return ClipPixels(reader, "self_blend", 64, seed=0)


@pytest.fixture
def windows(reader):
    return choose_windows(list_clips(reader), 1, 0)


def test_the_training_loss_falls_and_the_run_repeats_itself(pixels, windows):
    """Catches order, blends or dropout drawn from global random state."""
    cfg = FinetuneConfig(epochs=3, lr=3e-3, head_lr=3e-3)
    states = []
    for _ in range(2):
        detector = _detector()
        result = finetune(detector, pixels, windows[:4], windows[6:8], cfg, device=CPU, seed=0)
        states.append(detector.state_dict())
    assert len(result.losses) == 3
    assert result.losses[-1][0] < result.losses[0][0]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_start_is_kept_when_no_epoch_is_better(pixels, windows):
    """Catches fine-tuning that hands over its last epoch, worse than the probe it started from."""
    detector = _detector()
    with torch.no_grad():
        detector.head.weight.mul_(0)
        detector.head.bias.mul_(0)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    cfg = FinetuneConfig(epochs=1, lr=1.0, head_lr=50.0)
    try:
        result = finetune(detector, pixels, windows[:4], windows[6:8], cfg, device=CPU, seed=0)
    except TrainingError:
        pytest.fail("the loss stays finite here")
    assert result.best_epoch == -1
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())


def test_a_diverging_loss_is_one_sentence(pixels, windows):
    detector = _detector()
    with torch.no_grad():
        detector.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"diverged in epoch 1.*lower finetune\.lr"):
        finetune(detector, pixels, windows[:2], windows[6:7], FinetuneConfig(epochs=1), device=CPU, seed=0)


def test_the_overfit_check_leaves_no_head_start(pixels, windows):
    """Catches a check whose weights stay in the model."""
    cfg = FinetuneConfig(epochs=1, overfit_check_steps=150, lr=1e-2, head_lr=1e-2)
    with_check, without = _detector(), _detector()
    result = finetune(with_check, pixels, windows[:4], windows[6:7], cfg, device=CPU, seed=0)
    finetune(
        without, pixels, windows[:4], windows[6:7], cfg.model_copy(update={"overfit_check_steps": 0}),
        device=CPU, seed=0,
    )  # fmt: skip
    assert result.overfit is not None
    assert result.overfit.last < result.overfit.first / 2
    assert all(torch.equal(with_check.state_dict()[n], v) for n, v in without.state_dict().items())


def test_scores_are_in_the_order_of_the_windows(pixels, windows):
    detector = _detector()
    scores = detector_scores(detector, pixels, windows[:3], batch=3, device=CPU)
    alone = detector_scores(detector, pixels, windows[2:3], batch=3, device=CPU)
    assert scores.shape == (6,)
    assert scores[4:] == pytest.approx(alone, abs=1e-5)

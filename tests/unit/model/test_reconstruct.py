"""Pictures and numbers of a reconstruction, with a network whose predictions are known."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from infra.errors import ConfigError, MediaError
from model.data.batch import ClipSample
from model.masking import make_mask
from model.nets.config import model_config
from model.nets.factory import build_encoder, build_mae
from model.nets.mae import Prediction
from model.nets.patch_embed import patchify, take_tokens, to_unit_range, token_indices
from model.reconstruct import (
    HIDDEN_GREY,
    draw_reconstructions,
    load_autoencoder,
    mean_face,
    reconstruct,
    reconstruct_clip,
    score_reconstruction,
)
from model.reconstruct_config import ReconstructConfig
from model.weights import save_weights
from pipeline.config import ClipConfig
from pipeline.media.decode import read_frames
from pipeline.media.encode import encode_clip

SHAPE = model_config("marlin_vit_tiny", image_size=112)


class Oracle(nn.Module):
    """Predicts the truth plus ``error``."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.config, self.error, self.enc_dec_proj = SHAPE, error, nn.Linear(1, 1)

    def forward(self, clip_BCTHW, is_masked_BL) -> Prediction:
        target_BMP = take_tokens(patchify(to_unit_range(clip_BCTHW), 2, 16), token_indices(is_masked_BL))
        return Prediction(target_BMP + self.error, target_BMP)


def sample(seed: int, level: int | None = None) -> ClipSample:
    """A clip of noise, or of one grey level."""
    torch.manual_seed(seed)
    clip = torch.randint(0, 256, (16, 112, 112, 3), dtype=torch.uint8)
    if level is not None:
        clip[:] = level
    bits = torch.zeros(1, *SHAPE.grid, dtype=torch.int32)
    return ClipSample(
        clip, make_mask("random", bits, SHAPE.grid, 0.9, torch.tensor([seed]))[0], bits[0].numpy(), "k", 0
    )


def test_scores_are_squared_errors_on_hidden_patches_against_both_guesses():
    """Catches an error over all patches, which visible ones would make look small, and guesses from hidden pixels."""
    samples = [sample(0, level=51), sample(1, level=153)]
    score = score_reconstruction(Oracle(0.1), samples, torch.full((3, 112, 112), 0.4))
    assert (score.clips, score.mse) == (2, pytest.approx(0.01, rel=1e-4))
    assert score.mean_colour == pytest.approx(0, abs=1e-10)  # one grey level: its visible patches tell it
    assert score.mean_face == pytest.approx(0.04, rel=1e-4)
    assert score.against_mean_face == pytest.approx(0.25, rel=1e-4)


def test_the_mean_face_is_the_mean_over_clips_and_frames():
    assert torch.allclose(mean_face([sample(0, level=0), sample(1, level=255)]), torch.full((3, 112, 112), 0.5))


def test_a_perfect_prediction_gives_back_the_clip_and_hidden_patches_are_grey_in_the_masked_one():
    """Catches predictions laid out in the wrong order, and a masked picture that shows what is hidden."""
    clip = sample(2)
    drawn = reconstruct_clip(Oracle(0.0), clip.clip_THWC, clip.is_masked_L)
    assert np.array_equal(drawn.rebuilt_THWC, drawn.original_THWC)
    grey = (drawn.masked_THWC == HIDDEN_GREY).all(axis=-1).mean()
    assert grey == pytest.approx(clip.is_masked_L.float().mean().item(), abs=0.001)


def test_a_picture_has_three_rows_a_clip():
    drawn = [reconstruct_clip(Oracle(0.5), *sample(seed)[:2]) for seed in range(2)]
    picture = cv2.imdecode(np.frombuffer(draw_reconstructions(drawn), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (2 * 3 * 112 + 8, 8 * 112, 3)


def test_an_encoder_alone_is_refused(tmp_path):
    state = {f"encoder.{name}": value for name, value in build_encoder(SHAPE).state_dict().items()}
    save_weights(tmp_path / "w.safetensors", state, SHAPE, {})
    with pytest.raises(ConfigError, match="cannot reconstruct"):
        load_autoencoder(tmp_path / "w.safetensors")


@pytest.fixture
def weights(tmp_path) -> Path:
    save_weights(tmp_path / "w.safetensors", build_mae(SHAPE).state_dict(), SHAPE, {})
    return tmp_path / "w.safetensors"


def settings(video: Path, weights: Path, out: Path, **others: Any) -> ReconstructConfig:
    return ReconstructConfig(video=str(video), weights=str(weights), out=str(out), **others)


def test_the_command_draws_the_faces_of_a_video(weights, tmp_path, sample_videos):
    """Catches clips of the whole frame, and an output folder that must exist."""
    video = next(sample_videos.glob("*single_face*.mp4"))
    path = reconstruct(settings(video, weights, tmp_path / "new" / "out.png", clips=2))
    assert cv2.imread(str(path)).shape == (3 * 112, 8 * 112, 3)  # it holds one clip that is long enough


def test_a_video_without_a_long_enough_face_says_so(weights, tmp_path, sample_videos):
    """Catches a window that reaches past the end of a short clip."""
    frames = read_frames(str(next(sample_videos.glob("*single_face*.mp4"))), range(20))
    (tmp_path / "short.mp4").write_bytes(encode_clip(frames, 25.0, ClipConfig()))
    with pytest.raises(MediaError, match="no face stays in sight for 31 frames"):
        reconstruct(settings(tmp_path / "short.mp4", weights, tmp_path / "out.png"))
    with pytest.raises(ConfigError, match="is not there"):
        reconstruct(settings(tmp_path / "absent.mp4", weights, tmp_path / "out.png"))


@pytest.mark.parametrize("ratio", [0.9999, 1e-9])
def test_a_mask_that_cannot_be_drawn_is_refused_before_the_video_is_read(weights, tmp_path, monkeypatch, ratio):
    """Catches minutes of decoding that end in a traceback."""
    monkeypatch.setattr("model.reconstruct._face_clips", lambda *args: pytest.fail("the video was read"))
    (tmp_path / "v.mp4").write_bytes(b"video")
    cfg = settings(tmp_path / "v.mp4", weights, tmp_path / "out.png", mask={"ratio": ratio})
    with pytest.raises(ConfigError, match=r"mask\.ratio"):
        reconstruct(cfg)

"""The picture shows exactly the tokens that are hidden, in their places."""

import cv2
import numpy as np
import torch

from model.data.batch import ClipSample
from model.mask_picture import LABEL, SHADE, TILE, draw_masks, shaded
from model.masking import STRATEGIES, make_mask
from model.nets.config import model_config

SHAPE = model_config("marlin_vit_tiny", image_size=112)


def test_hidden_patches_are_dark_and_visible_ones_as_they_are():
    """Catches masks drawn mirrored, upside down, or in another tubelet."""
    frames = np.random.default_rng(0).integers(50, 255, (8, 112, 112, 3), dtype=np.uint8)
    is_masked = np.random.default_rng(1).random((8, 7, 7)) < 0.9
    shown = shaded(frames, is_masked)
    for t, row, column in np.ndindex(8, 7, 7):
        place = np.s_[t, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        wanted = (frames[place] * SHADE).astype(np.uint8) if is_masked[t, row, column] else frames[place]
        assert (shown[place] == wanted).all()


def test_there_is_a_row_for_the_clip_and_for_every_strategy():
    """Catches a strategy left out, and one that is drawn with another's mask."""
    bits = np.random.default_rng(0).integers(1, 2048, (8, 7, 7)).astype(np.uint16)
    sample = ClipSample(torch.full((16, 112, 112, 3), 200, dtype=torch.uint8), torch.ones(392).bool(), bits, "a", 0)
    picture = cv2.imdecode(np.frombuffer(draw_masks(sample, SHAPE, 0.75, seed=3), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (TILE * (1 + len(STRATEGIES)), LABEL + 8 * TILE, 3)
    assert (picture[:TILE, LABEL:] == 200).all()
    for number, strategy in enumerate(STRATEGIES, start=1):
        hidden = make_mask(strategy, torch.from_numpy(bits.astype(np.int32))[None], SHAPE.grid, 0.75, torch.tensor([3]))
        centres = picture[number * TILE + 8 : (number + 1) * TILE : 16, LABEL + 8 :: 16, 0].reshape(7, 8, 7)
        assert ((centres < 100).transpose(1, 0, 2) == hidden[0].reshape(8, 7, 7).numpy()).all()

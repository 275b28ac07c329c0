"""The pretrained encoder as adaptation sees it: uint8 clips in, pooled features out; and the files it is saved to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.adapt.detector import Detector
from model.nets.config import ModelConfig
from model.nets.encoder import Encoder
from model.nets.factory import build_encoder
from model.weights import ENCODER, LoadedWeights, save_weights

_HEAD = "head."


class PooledEncoder(nn.Module):
    """Pooled features: the mean over all tokens, then LayerNorm (METHOD section 4), in this order.

    Args:
        encoder: the network of ``model.nets``; all tokens visible.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, clip_BTHWC: Tensor) -> Tensor:
        """Return float (B, D) for uint8 RGB clips (B, T, H, W, 3)."""
        return self.encoder.pooled(clip_BTHWC.permute(0, 4, 1, 2, 3))


def pretrained_encoder(weights: LoadedWeights) -> PooledEncoder:
    """Build the encoder of these weights; its size comes from them.

    Raises:
        WeightsError: the file holds no encoder (a head alone, say).
    """
    encoder = build_encoder(weights.config)
    encoder.load_state_dict(weights.encoder)
    return PooledEncoder(encoder)


def random_encoder(config: ModelConfig, seed: int) -> PooledEncoder:
    """Build an encoder of this size, initialised from ``seed``; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PooledEncoder(build_encoder(config))


def save_head(path: Path, head: nn.Linear, weights: LoadedWeights, facts: dict[str, Any]) -> None:
    """Save a linear probe alone: ``head.weight`` (1, D) and ``head.bias`` (1,), for raw pooled features."""
    state = {f"{_HEAD}{name}": value for name, value in head.state_dict().items()}
    save_weights(path, state, weights.config, {**weights.provenance, **facts})


def save_detector(path: Path, detector: Detector, weights: LoadedWeights, facts: dict[str, Any]) -> None:
    """Save a fine-tuned encoder under its usual names, so that everything that reads weights reads it, and the head."""
    encoder = detector.encoder
    if not isinstance(encoder, PooledEncoder):
        raise TypeError(f"a detector over {type(encoder).__name__} has no encoder weights to save")
    state = {f"{ENCODER}{name}": value for name, value in encoder.encoder.state_dict().items()}
    state |= {f"{_HEAD}{name}": value for name, value in detector.head.state_dict().items()}
    save_weights(path, state, weights.config, {**weights.provenance, **facts})

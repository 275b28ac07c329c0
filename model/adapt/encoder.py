"""The pretrained encoder as adaptation sees it: uint8 clips in, pooled features out; and the files it is saved to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.adapt.classifier import Classifier
from model.nets.config import ModelConfig
from model.nets.encoder import Encoder
from model.nets.factory import build_encoder
from model.weights import ENCODER, LoadedWeights, save_weights

_HEAD = "head."


class PooledEncoder(nn.Module):
    """Pooled features: the mean over all tokens, then LayerNorm, in this order, as in the released code.

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


def classifier_state(classifier: Classifier, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return a classifier's tensors under the names of weight files: ``encoder.*`` as everything reads it, ``head.*``.

    ``state`` None takes the classifier's own; else tensors under the classifier's names.
    """
    prefix = f"{ENCODER}encoder." if isinstance(classifier.encoder, PooledEncoder) else ENCODER
    own = classifier.state_dict() if state is None else state
    return {
        (f"{ENCODER}{name.removeprefix(prefix)}" if name.startswith(prefix) else name): value
        for name, value in own.items()
    }


def save_head(path: Path, head: nn.Linear, config: ModelConfig, facts: Mapping[str, Any]) -> None:
    """Save a linear probe alone: ``head.weight`` (K, D) and ``head.bias`` (K,), for raw pooled features."""
    state = {f"{_HEAD}{name}": value for name, value in head.state_dict().items()}
    save_weights(path, state, config, facts)


def head_of(state: Mapping[str, Tensor]) -> nn.Linear:
    """Build the head that a weight file holds."""
    weight_KD = state[f"{_HEAD}weight"]
    head = nn.Linear(weight_KD.shape[1], weight_KD.shape[0])
    head.load_state_dict({"weight": weight_KD, "bias": state[f"{_HEAD}bias"]})
    return head

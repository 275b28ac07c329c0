"""Hugging Face's ``config.json`` of VideoMAE, both ways: the shape of a network, and what it leaves open."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from infra.config import validate_config
from infra.errors import WeightsError
from model.nets.config import ModelConfig, size_name

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
LAYER_NORM_EPS = 1e-5
"""PyTorch's default, which MARLIN keeps; VideoMAE's own is 1e-12."""
_MAX_BYTES = 1 << 20

_SHAPE = {
    "image_size": "image_size", "patch_size": "patch_size", "num_frames": "frames", "tubelet_size": "tubelet",
    "hidden_size": "encoder_dim", "num_hidden_layers": "encoder_depth", "num_attention_heads": "encoder_heads",
    "decoder_hidden_size": "decoder_dim", "decoder_num_hidden_layers": "decoder_depth",
    "decoder_num_attention_heads": "decoder_heads",
}  # fmt: skip
"""Their name → ours."""
_DEFAULTS: dict[str, Any] = {
    "image_size": 224, "patch_size": 16, "num_frames": 16, "tubelet_size": 2,
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "decoder_hidden_size": 384, "decoder_num_hidden_layers": 4, "decoder_num_attention_heads": 6,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12,
}  # fmt: skip
"""What ``VideoMAEConfig`` takes for what a file does not say."""


def huggingface_config(config: ModelConfig, *, with_decoder: bool) -> dict[str, Any]:
    """Return ``config.json``. Inverse of ``read_huggingface_config``, but for the name of an unnamed size."""
    return {
        "model_type": "videomae",
        "architectures": ["VideoMAEForPreTraining" if with_decoder else "VideoMAEModel"],
        **{theirs: getattr(config, ours) for theirs, ours in _SHAPE.items()},
        "num_channels": 3,
        "intermediate_size": config.mlp_ratio * config.encoder_dim,
        "decoder_intermediate_size": config.mlp_ratio * config.decoder_dim,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": LAYER_NORM_EPS, "qkv_bias": True, "use_mean_pooling": False, "norm_pix_loss": False,
    }  # fmt: skip


def read_huggingface_config(path: Path) -> ModelConfig:
    """Return the shape that a ``config.json`` describes; a LayerNorm eps other than ours is warned of.

    Raises:
        WeightsError: it cannot be read, or describes a network with another activation than GELU.
        ConfigError: no such network can be built; the sentence names the field as ``ModelConfig`` does.
    """
    facts = _DEFAULTS | _read(path)
    if facts["hidden_act"] != "gelu":
        raise WeightsError(f"{path}: hidden_act is {facts['hidden_act']!r}; networks here have 'gelu' alone")
    shape = {ours: _side(facts[theirs]) for theirs, ours in _SHAPE.items()}
    try:
        # a fraction stays one, which ModelConfig refuses; the decoder's ratio shows in its tensors
        shape["mlp_ratio"] = facts["intermediate_size"] / facts["hidden_size"]
    except (TypeError, ArithmeticError) as error:
        raise WeightsError(f"{path}: intermediate_size and hidden_size are no widths; fetch it again") from error
    config = validate_config(ModelConfig, {**shape, "name": "videomae"}, where=str(path))
    if facts["layer_norm_eps"] != LAYER_NORM_EPS:
        logger.warning(
            "%s: layer_norm_eps is %s and networks here have %s; features differ slightly",
            path, facts["layer_norm_eps"], LAYER_NORM_EPS,
        )  # fmt: skip
    name = size_name(config.encoder_dim, config.encoder_depth, config.tubelet, config.patch_size)
    return config.model_copy(update={"name": name or config.name})


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES} bytes")
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not a readable config.json ({error}); fetch it again") from error
    if not isinstance(facts, dict):
        raise WeightsError(f"{path} holds no mapping and does not describe a network; fetch it again")
    return facts


def _side(value: Any) -> Any:
    """The side of a square that is given as [height, width]; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 2 and value[0] == value[1] else value

"""Weights for other libraries: a marlin-pytorch file, or a folder that Hugging Face's VideoMAE classes load.

Hugging Face computes the same mathematics; it orders the decoder head's outputs (t, h, w, c) and MARLIN (c, t, h, w),
and keeps q, k and v apart.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from infra.errors import ConfigError
from infra.paths import output_file, output_folder
from model.nets.config import ModelConfig
from model.nets.patch_embed import SinCosPositions
from model.weights import HF_ENCODER, HF_OTHER, LoadedWeights, State, head_order, load_weights

FORMS = ("marlin-pytorch", "huggingface")
LAYER_NORM_EPS = 1e-5
"""PyTorch's default, which MARLIN keeps; VideoMAE's own is 1e-12."""


def export_weights(weights: str | Path, to: str, out: str | Path) -> Path:
    """Write ``weights`` in another library's form and return where they are.

    Args:
        weights: whatever ``load_weights`` reads.
        to: ``marlin-pytorch`` (``out`` is a ``.pt`` file) or ``huggingface`` (``out`` is a folder).
        out: file or folder to write.

    Raises:
        ConfigError: unknown form, or ``out`` cannot be written.
        WeightsError: the weights cannot be read.
    """
    if to not in FORMS:
        raise ConfigError(f"unknown export '{to}'; known: {', '.join(FORMS)}")
    target = output_file(out) if to == "marlin-pytorch" else output_folder(out)
    loaded = load_weights(weights)
    if to == "marlin-pytorch":
        buffer = io.BytesIO()  # torch's own writer hides what the disk says
        torch.save(marlin_pytorch_state(loaded), buffer)
        target.write_bytes(buffer.getbuffer())
        return target
    state = {name: value.contiguous().clone() for name, value in huggingface_state(loaded).items()}
    (target / "model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
    config = huggingface_config(loaded.config, with_decoder=loaded.has_decoder)
    (target / "config.json").write_text(json.dumps(config, indent=1))
    (target / "preprocessor_config.json").write_text(json.dumps(_preprocessor(loaded.config), indent=1))
    return target


def marlin_pytorch_state(weights: LoadedWeights) -> State:
    """Return a plain state dict with the position tables that marlin-pytorch keeps as parameters."""
    config = weights.config
    state = {name: value for name, value in weights.state.items() if not name.startswith(("discriminator.", "head."))}
    state["encoder.pos_embedding.emb"] = SinCosPositions(config.tokens, config.encoder_dim).emb
    if weights.has_decoder:
        state["decoder.pos_embedding.emb"] = SinCosPositions(config.tokens, config.decoder_dim).emb
    return state


def huggingface_state(weights: LoadedWeights) -> State:
    """Return the state under Hugging Face's names: VideoMAEForPreTraining's with a decoder, else VideoMAEModel's."""
    names = {ours: theirs for theirs, ours in HF_ENCODER.items() if not theirs.endswith((".q_bias", ".v_bias"))}
    others = {ours: theirs for theirs, ours in HF_OTHER.items()}
    prefix = "videomae." if weights.has_decoder else ""
    order = head_order(weights.config.tubelet, weights.config.patch_size, weights.config.patch_size).argsort()
    state: State = {}
    for name, value in weights.state.items():
        side, _, rest = name.partition(".")
        if rest.startswith("blocks."):
            _, index, part = rest.split(".", 2)
            place = f"{prefix}encoder.layer.{index}" if side == "encoder" else f"decoder.decoder_layers.{index}"
            state |= _block_part(place, part, value, names)
        elif name in others:
            place = prefix + others[name] if side == "encoder" else others[name]
            state[place] = value[order] if name.startswith("decoder.head.") else value
    return state


def _block_part(place: str, part: str, value: torch.Tensor, names: dict[str, str]) -> State:
    attention = f"{place}.attention.attention"
    if part == "attn.qkv.weight":
        query, key, other = value.chunk(3)
        return {
            f"{attention}.query.weight": query, f"{attention}.key.weight": key, f"{attention}.value.weight": other,
        }  # fmt: skip
    if part in ("attn.q_bias", "attn.v_bias"):
        return {f"{attention}.{part.removeprefix('attn.')}": value}
    return {f"{place}.{names[part]}": value}


def huggingface_config(config: ModelConfig, *, with_decoder: bool) -> dict[str, Any]:
    """Return ``config.json``."""
    return {
        "model_type": "videomae",
        "architectures": ["VideoMAEForPreTraining" if with_decoder else "VideoMAEModel"],
        "image_size": config.image_size, "patch_size": config.patch_size, "num_channels": 3,
        "num_frames": config.frames, "tubelet_size": config.tubelet,
        "hidden_size": config.encoder_dim, "num_hidden_layers": config.encoder_depth,
        "num_attention_heads": config.encoder_heads, "intermediate_size": config.mlp_ratio * config.encoder_dim,
        "decoder_hidden_size": config.decoder_dim, "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_heads,
        "decoder_intermediate_size": config.mlp_ratio * config.decoder_dim,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": LAYER_NORM_EPS, "qkv_bias": True, "use_mean_pooling": False, "norm_pix_loss": False,
    }  # fmt: skip


def _preprocessor(config: ModelConfig) -> dict[str, Any]:
    side = config.image_size
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True, "size": {"shortest_edge": side}, "do_center_crop": True,
        "crop_size": {"height": side, "width": side}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": False,
    }  # fmt: skip

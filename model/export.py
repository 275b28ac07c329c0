"""Weights for other libraries: a marlin-pytorch file, or a folder that Hugging Face's VideoMAE classes load.

Hugging Face computes the same mathematics; it orders the decoder head's outputs (t, h, w, c) and MARLIN (c, t, h, w),
and keeps q, k and v apart.
"""

from __future__ import annotations

import io
import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from infra.errors import ConfigError
from infra.paths import output_file, output_folder
from model.foreign_names import HF_BLOCK, HF_OTHER, State, head_order
from model.huggingface import CONFIG_FILE, huggingface_config
from model.nets.config import ModelConfig
from model.nets.patch_embed import sin_cos_table
from model.weights import LoadedWeights, load_weights, replaced_when_whole

logger = logging.getLogger(__name__)

FORMS = ("marlin-pytorch", "huggingface")


def export_weights(weights: str | Path, to: str, out: str | Path) -> Path:
    """Write ``weights`` in another library's form and return where they are.

    Args:
        weights: whatever ``load_weights`` reads.
        to: ``marlin-pytorch`` (``out`` is a ``.pt`` file) or ``huggingface`` (``out`` is a folder). The first keeps
            every tensor as it is; the second cannot keep a position table, since Hugging Face computes its own.
        out: file or folder to write. What lies there is replaced when the new is whole, and stays when it cannot be.

    Raises:
        ConfigError: unknown form, or ``out`` is no place to write.
        WeightsError: the weights cannot be read, or the disk refuses.
    """
    if to not in FORMS:
        raise ConfigError(f"unknown export '{to}'; known: {', '.join(FORMS)}")
    target = output_file(out) if to == "marlin-pytorch" else output_folder(out)
    loaded = load_weights(weights)
    if to == "marlin-pytorch":
        _write_file(loaded, target)
    else:
        _write_folder(loaded, target)
    return target


def _write_file(weights: LoadedWeights, target: Path) -> None:
    buffer = io.BytesIO()  # torch's own writer hides what the disk says
    torch.save(weights.network, buffer)
    with replaced_when_whole(target) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _write_folder(weights: LoadedWeights, target: Path) -> None:
    table_1LD = weights.network["encoder.pos_embedding.emb"]
    off = float((table_1LD - sin_cos_table(*table_1LD.shape[1:])).abs().max())
    if off > 1e-6:
        logger.warning("Hugging Face computes its own positions, up to %.0e off those of these weights", off)
    state = {name: value.contiguous().clone() for name, value in huggingface_state(weights).items()}
    files = {
        "model.safetensors": save(state, metadata={"format": "pt"}),
        CONFIG_FILE: _json(huggingface_config(weights.config, with_decoder=weights.has_decoder)),
        "preprocessor_config.json": _json(_preprocessor(weights.config)),
    }
    with ExitStack() as stack:  # all are written before the first takes its place: they describe each other
        for name, content in files.items():
            stack.enter_context(replaced_when_whole(target / name)).write_bytes(content)


def _json(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=1).encode()


def huggingface_state(weights: LoadedWeights) -> State:
    """Return the state under Hugging Face's names: VideoMAEForPreTraining's with a decoder, else VideoMAEModel's."""
    names = {ours: theirs for theirs, ours in HF_BLOCK.items()}
    others = {ours: theirs for theirs, ours in HF_OTHER.items()}
    prefix = "videomae." if weights.has_decoder else ""
    order = head_order(weights.config.tubelet, weights.config.patch_size, weights.config.patch_size).argsort()
    state: State = {}
    for name, value in weights.network.items():
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
    if part == "attn.qkv.weight":
        return {f"{place}.{names[one]}": rows for one, rows in zip("qkv", value.chunk(3), strict=True)}
    return {f"{place}.{names[part]}": value}


def _preprocessor(config: ModelConfig) -> dict[str, Any]:
    side = config.image_size
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True, "size": {"shortest_edge": side}, "do_center_crop": True,
        "crop_size": {"height": side, "width": side}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": False,
    }  # fmt: skip

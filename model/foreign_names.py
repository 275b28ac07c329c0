"""Names of other libraries: marlin-pytorch, Lightning, the original VideoMAE and Hugging Face's, both ways.

VideoMAE and Hugging Face order the decoder head's outputs (t, h, w, c), MARLIN (c, t, h, w); Hugging Face keeps q, k
and v apart.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from infra.errors import WeightsError

State = dict[str, Tensor]


class ForeignWeights(NamedTuple):
    """Tensors under marlin-pytorch's names, the decoder head still in the order of ``library``."""

    state: State
    library: Literal["marlin", "videomae", "huggingface"]


def renamed(file: Path, raw: State) -> ForeignWeights:
    """Return foreign tensors under marlin-pytorch's names; nothing is known of their shapes yet.

    Raises:
        WeightsError: names of no known library.
    """
    if "encoder.patch_embedding.projection.weight" in raw:
        return ForeignWeights(raw, "marlin")
    if any(name.startswith("patch_embedding.") for name in raw):
        return ForeignWeights({f"encoder.{name}": value for name, value in raw.items()}, "marlin")
    if "encoder.patch_embed.proj.weight" in raw:
        return ForeignWeights(_from_videomae(raw), "videomae")
    stripped = {name.removeprefix("videomae."): value for name, value in raw.items()}
    if "embeddings.patch_embeddings.projection.weight" in stripped:
        return ForeignWeights(_from_huggingface(stripped), "huggingface")
    raise WeightsError(
        f"{file} is of no known format; known: ours, marlin-pytorch, Lightning checkpoints of MARLIN, VideoMAE "
        "pretraining checkpoints, Hugging Face VideoMAE"
    )


def head_in_our_order(state: State, tubelet: int, patch: int) -> State:
    """Return the state with the decoder head's outputs, (t, h, w, c) in both libraries, in ours (c, t, h, w)."""
    order = head_order(tubelet, patch, patch)
    heads = ("decoder.head.weight", "decoder.head.bias")
    return state | {name: state[name][order] for name in heads if name in state}


_VIDEOMAE = (
    ("patch_embed.proj.", "patch_embedding.projection."),
    ("mlp.fc1.", "mlp.layers.0.linear."),
    ("mlp.fc2.", "mlp.layers.1.linear."),
    ("encoder_to_decoder.", "enc_dec_proj."),
)


def _from_videomae(raw: State) -> State:
    state = {}
    for name, value in raw.items():
        ours = "decoder.mask_token" if name == "mask_token" else name
        for theirs, mine in _VIDEOMAE:
            ours = ours.replace(theirs, mine)
        state[ours] = value
    return state


HF_BLOCK = {
    "attention.attention.query.weight": "q", "attention.attention.key.weight": "k",
    "attention.attention.value.weight": "v",
    "attention.attention.q_bias": "attn.q_bias", "attention.attention.v_bias": "attn.v_bias",
    "attention.output.dense.weight": "attn.proj.weight", "attention.output.dense.bias": "attn.proj.bias",
    "intermediate.dense.weight": "mlp.layers.0.linear.weight", "intermediate.dense.bias": "mlp.layers.0.linear.bias",
    "output.dense.weight": "mlp.layers.1.linear.weight", "output.dense.bias": "mlp.layers.1.linear.bias",
    "layernorm_before.weight": "norm1.weight", "layernorm_before.bias": "norm1.bias",
    "layernorm_after.weight": "norm2.weight", "layernorm_after.bias": "norm2.bias",
}  # fmt: skip
"""Parts of a block, of the encoder and the decoder alike: their name → ours. q, k and v make up our ``attn.qkv``."""
_HF_BIASES = {"attention.attention.query.bias": "attn.q_bias", "attention.attention.value.bias": "attn.v_bias"}
"""Names that some releases give the two biases; files are written with the others."""
_HF_PLACE = re.compile(r"(encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)")
HF_OTHER = {
    "embeddings.patch_embeddings.projection.weight": "encoder.patch_embedding.projection.weight",
    "embeddings.patch_embeddings.projection.bias": "encoder.patch_embedding.projection.bias",
    "layernorm.weight": "encoder.norm.weight", "layernorm.bias": "encoder.norm.bias",
    "encoder_to_decoder.weight": "enc_dec_proj.weight", "mask_token": "decoder.mask_token",
    "decoder.norm.weight": "decoder.norm.weight", "decoder.norm.bias": "decoder.norm.bias",
    "decoder.head.weight": "decoder.head.weight", "decoder.head.bias": "decoder.head.bias",
}  # fmt: skip


def _from_huggingface(raw: State) -> State:
    state: State = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in raw.items():
        place = _HF_PLACE.fullmatch(name)
        if place is None:
            if name in HF_OTHER:
                state[HF_OTHER[name]] = value
            continue
        block = f"{'encoder' if place[1].startswith('encoder') else 'decoder'}.blocks.{place[2]}"
        ours = (HF_BLOCK | _HF_BIASES).get(place[3])
        if ours in ("q", "k", "v"):
            parts.setdefault(block, {})[ours] = value
        elif ours is not None:
            state[f"{block}.{ours}"] = value
    for block, qkv in parts.items():
        if set(qkv) == {"q", "k", "v"}:
            state[f"{block}.attn.qkv.weight"] = torch.cat([qkv["q"], qkv["k"], qkv["v"]])
    return state


def head_order(tubelet: int, height: int, width: int) -> Tensor:
    """Return where each of our head's outputs, in (c, t, h, w) order, stands in VideoMAE's (t, h, w, c) order."""
    return torch.arange(3 * tubelet * height * width).reshape(tubelet, height, width, 3).permute(3, 0, 1, 2).flatten()

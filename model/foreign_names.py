"""Names of other libraries: marlin-pytorch, Lightning, the original VideoMAE and Hugging Face's, both ways.

VideoMAE and Hugging Face order the decoder head's outputs (t, h, w, c), MARLIN (c, t, h, w); Hugging Face keeps q, k
and v apart.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from infra.errors import WeightsError

State = dict[str, Tensor]


def renamed(file: Path, raw: State) -> State:
    """Return foreign tensors under marlin-pytorch's names, the decoder head in MARLIN's order.

    Raises:
        WeightsError: names of no known library.
    """
    if "encoder.patch_embedding.projection.weight" in raw:
        return raw
    if any(name.startswith("patch_embedding.") for name in raw):
        return {f"encoder.{name}": value for name, value in raw.items()}
    if "encoder.patch_embed.proj.weight" in raw:
        return _from_videomae(raw)
    stripped = {name.removeprefix("videomae."): value for name, value in raw.items()}
    if "embeddings.patch_embeddings.projection.weight" in stripped:
        return _from_huggingface(stripped)
    raise WeightsError(
        f"{file} is of no known format; known: ours, marlin-pytorch, Lightning checkpoints of MARLIN, VideoMAE "
        "pretraining checkpoints, Hugging Face VideoMAE"
    )


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
    return _with_our_head_order(state)


HF_ENCODER = {
    "attention.attention.query.weight": "q", "attention.attention.key.weight": "k",
    "attention.attention.value.weight": "v", "attention.attention.q_bias": "attn.q_bias",
    "attention.attention.v_bias": "attn.v_bias", "attention.attention.query.bias": "attn.q_bias",
    "attention.attention.value.bias": "attn.v_bias",
    "attention.output.dense.weight": "attn.proj.weight", "attention.output.dense.bias": "attn.proj.bias",
    "intermediate.dense.weight": "mlp.layers.0.linear.weight", "intermediate.dense.bias": "mlp.layers.0.linear.bias",
    "output.dense.weight": "mlp.layers.1.linear.weight", "output.dense.bias": "mlp.layers.1.linear.bias",
    "layernorm_before.weight": "norm1.weight", "layernorm_before.bias": "norm1.bias",
    "layernorm_after.weight": "norm2.weight", "layernorm_after.bias": "norm2.bias",
}  # fmt: skip
_HF_BLOCK = re.compile(r"(encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)")
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
        block = _HF_BLOCK.fullmatch(name)
        if block is None:
            if name in HF_OTHER:
                state[HF_OTHER[name]] = value
            continue
        side = "encoder" if block[1].startswith("encoder") else "decoder"
        place, ours = f"{side}.blocks.{block[2]}", HF_ENCODER.get(block[3])
        if ours in ("q", "k", "v"):
            parts.setdefault(place, {})[ours] = value
        elif ours is not None:
            state[f"{place}.{ours}"] = value
    for place, qkv in parts.items():
        if set(qkv) == {"q", "k", "v"}:
            state[f"{place}.attn.qkv.weight"] = torch.cat([qkv["q"], qkv["k"], qkv["v"]])
    return _with_our_head_order(state)


def _with_our_head_order(state: State) -> State:
    """Reorder the decoder head's outputs from (t, h, w, c), as VideoMAE has them, to ours (c, t, h, w)."""
    if "decoder.head.weight" in state:
        kernel = state["encoder.patch_embedding.projection.weight"].shape[2:]
        order = head_order(*kernel)
        state["decoder.head.weight"] = state["decoder.head.weight"][order]
        state["decoder.head.bias"] = state["decoder.head.bias"][order]
    return state


def head_order(tubelet: int, height: int, width: int) -> Tensor:
    """Return where each of our head's outputs, in (c, t, h, w) order, stands in VideoMAE's (t, h, w, c) order."""
    return torch.arange(3 * tubelet * height * width).reshape(tubelet, height, width, 3).permute(3, 0, 1, 2).flatten()

"""A network small enough for seconds that still takes 224-pixel clips of 16 frames, in marlin-pytorch's YAML form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SMALL_SHAPE: dict[str, Any] = {
    "model_name": "small", "img_size": 224, "patch_size": 16, "clip_frames": 16, "tubelet_size": 2,
    "mask_strategy": "fasking", "mlp_ratio": 4.0, "qkv_bias": True, "qk_scale": None, "drop_rate": 0.0,
    "attn_drop_rate": 0.0, "norm_layer": "LayerNorm", "init_values": 0.0, "weight_decay": 0.0,
    "encoder": {"embed_dim": 48, "depth": 2, "num_heads": 3},
    "decoder": {"embed_dim": 32, "depth": 1, "num_heads": 2},
}  # fmt: skip


def write_shape(path: Path, **changes: Any) -> Path:
    """Write the shape, with single settings changed; None leaves one out."""
    tree = {key: value for key, value in {**SMALL_SHAPE, **changes}.items() if key not in changes or value is not None}
    path.write_text(yaml.safe_dump(tree))
    return path

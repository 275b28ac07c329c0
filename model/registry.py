"""Networks by name: the named sizes, with or without ``_ytf``, and those that a YAML file registers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from infra.config import validate_config
from infra.errors import ConfigError
from model.nets.config import ModelConfig, model_config

_registered: dict[str, ModelConfig] = {}

_FIXED: dict[str, tuple[Any, ...]] = {
    "qkv_bias": (True,),
    "qk_scale": (None,),
    "drop_rate": (0,),
    "attn_drop_rate": (0,),
    "norm_layer": ("LayerNorm",),
    "init_values": (0, None),
}
"""What marlin-pytorch lets a file set and MARLIN never changes; another value is refused, not ignored."""


def network_named(name: str) -> ModelConfig:
    """Return the network of a registered or known name, with or without ``_ytf``.

    Raises:
        ConfigError: nothing has this name.
    """
    return _registered[name] if name in _registered else model_config(name.removesuffix("_ytf"))


def register_model_from_yaml(name: str, path: str | Path) -> None:
    """Give a network that a YAML file describes a name, for ``Marlin.from_file``.

    Args:
        name: the new name.
        path: file with marlin-pytorch's keys: img_size, patch_size, clip_frames, tubelet_size, mlp_ratio, and
            embed_dim, depth, num_heads under ``encoder`` and ``decoder``.

    Raises:
        ConfigError: unreadable, a key is absent or wrong, or the network is none that MARLIN has.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML ({' '.join(str(error).split())[:120]})") from error
    try:
        for key, allowed in _FIXED.items():
            if tree.get(key, allowed[0]) not in allowed:
                raise ConfigError(f"{path}: {key} is {tree[key]!r}, MARLIN has {allowed[0]!r}; remove the line")
        encoder, decoder = tree["encoder"], tree["decoder"]
        shape = {
            "name": name,
            "frames": tree["clip_frames"], "tubelet": tree["tubelet_size"],
            "image_size": tree["img_size"], "patch_size": tree["patch_size"], "mlp_ratio": tree["mlp_ratio"],
            "encoder_dim": encoder["embed_dim"], "encoder_depth": encoder["depth"],
            "encoder_heads": encoder["num_heads"],
            "decoder_dim": decoder["embed_dim"], "decoder_depth": decoder["depth"],
            "decoder_heads": decoder["num_heads"],
        }  # fmt: skip
    except KeyError as error:
        raise ConfigError(f"{path}: the key {error} is absent; add it") from error
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{path} does not hold the keys of a marlin-pytorch model file") from error
    _registered[name] = validate_config(ModelConfig, shape, where=str(path))

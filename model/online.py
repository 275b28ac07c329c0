"""Names of models: the released ones, and those that a YAML file registers; where their weights can be fetched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from infra.config import validate_config
from infra.errors import ConfigError
from infra.fetch import fetch_file
from model.nets.config import ModelConfig
from pipeline.faces.facexlib_weights import weights_folder

_RELEASE = "https://github.com/ControlNet/MARLIN/releases/download/model_v1"
_RELEASED = ("marlin_vit_small_ytf", "marlin_vit_base_ytf", "marlin_vit_large_ytf")


class WeightFile(NamedTuple):
    """Where a weight file is; ``sha256`` None where its publisher states none."""

    url: str
    sha256: str | None


class RegisteredModel(NamedTuple):
    """A shape under a name, and its file where there is one to fetch."""

    config: ModelConfig
    file: WeightFile | None


_registry: dict[str, RegisteredModel] = {}


def registered_shape(name: str) -> ModelConfig | None:
    """Return the shape that ``register_model_from_yaml`` gave to a name; None for other names."""
    return _registry[name].config if name in _registry else None


def fetch_model(name: str, full_model: bool) -> Path:
    """Return the weight file of a released or registered model, fetched once.

    The publisher of the released weights states no digest: their first download is taken as it comes over https, and
    what it holds is judged when it is loaded (tensors only, of the right names and shapes). Registered files have a
    digest, which is checked.

    Args:
        name: a registered name, or a released one, with or without ``_ytf``.
        full_model: with the decoder; a registered model has one file for both.

    Raises:
        ConfigError: no weights of this name are known.
        WeightsError: the file cannot be had, or has another digest.
    """
    full_name = name if name.endswith("_ytf") else f"{name}_ytf"
    if name in _registry:
        file = _registry[name].file
        if file is None:
            raise ConfigError(f"model '{name}' was registered without url and sha256; load its file with from_file")
    elif full_name in _RELEASED:
        file = WeightFile(f"{_RELEASE}/{full_name}.{'full' if full_model else 'encoder'}.pt", None)
    else:
        raise ConfigError(
            f"no weights are known for '{name}'; known: {', '.join((*_RELEASED, *_registry))}. Register others with "
            "register_model_from_yaml, or load a file with from_file"
        )
    base, _, file_name = file.url.rpartition("/")
    return fetch_file(file_name, file.sha256, [base], online_folder() / (file.sha256 or "released")[:12])


def online_folder() -> Path:
    """Where ``fetch_model`` keeps what it fetched."""
    return weights_folder() / "online"


def register_model_from_yaml(name: str, path: str | Path) -> None:
    """Give a shape of your own a name for ``Marlin.from_file`` and, with an address, for ``Marlin.from_online``.

    Args:
        name: any; registering it again replaces it.
        path: a YAML file in marlin-pytorch's form: ``img_size``, ``patch_size``, ``clip_frames``, ``tubelet_size``,
            ``mlp_ratio``, ``encoder`` and ``decoder`` with ``embed_dim``, ``depth`` and ``num_heads``. Its pretraining
            recipes are such files; their other keys are left alone. ``url`` with ``sha256`` says where the weights are.

    Raises:
        ConfigError: the file cannot be read, lacks a field, or asks for a network that MARLIN is not.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"model file {path} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"model file {path} must hold a mapping of settings")
    for key, only in _FIXED.items():
        if tree.get(key, only) != only:
            raise ConfigError(f"{path}: {key} is {tree[key]!r}; networks here have {only!r} alone")
    try:
        shape = {ours: _at(tree, theirs, path) for ours, theirs in _SHAPE.items()}
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} lacks {error}; it must describe encoder and decoder as marlin-pytorch does"
        ) from error
    config = validate_config(ModelConfig, {**shape, "name": name}, where=str(path))
    _registry[name] = RegisteredModel(config, _file_of(tree, path))


_SHAPE = {
    "image_size": "img_size", "patch_size": "patch_size", "frames": "clip_frames", "tubelet": "tubelet_size",
    "mlp_ratio": "mlp_ratio",
    "encoder_dim": "encoder.embed_dim", "encoder_depth": "encoder.depth", "encoder_heads": "encoder.num_heads",
    "decoder_dim": "decoder.embed_dim", "decoder_depth": "decoder.depth", "decoder_heads": "decoder.num_heads",
}  # fmt: skip
_FIXED: dict[str, Any] = {
    "qkv_bias": True, "qk_scale": None, "drop_rate": 0, "attn_drop_rate": 0, "init_values": 0,
    "norm_layer": "LayerNorm",
}  # fmt: skip
"""What marlin-pytorch's files can set and its released networks, like ours, have at these values."""


def _file_of(tree: dict[str, Any], path: str | Path) -> WeightFile | None:
    if ("url" in tree) != ("sha256" in tree):
        raise ConfigError(f"{path}: url and sha256 go together; give both or neither")
    if "url" not in tree:
        return None
    file = WeightFile(str(tree["url"]), str(tree["sha256"]).lower())
    if not re.fullmatch(r".+/[\w.-]+\.(pt|pth|ckpt|bin|safetensors)", file.url):
        raise ConfigError(f"{path}: url must end in the name of a weight file, e.g. https://host/weights.pt")
    return file


def _at(tree: dict[str, Any], dotted: str, path: str | Path) -> Any:
    node: Any = tree
    for part in dotted.split("."):
        if not isinstance(node, dict) or part not in node:
            raise ConfigError(f"{path} lacks {dotted}; it must describe encoder and decoder as marlin-pytorch does")
        node = node[part]
    return node

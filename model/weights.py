"""Weight files in and out: our safetensors, marlin-pytorch, Lightning, the original VideoMAE and Hugging Face's.

Whatever comes in leaves under the names of marlin-pytorch (``encoder.*``, ``decoder.*``, ``enc_dec_proj.weight``,
``discriminator.*``). Nothing is executed from a file: pickles are read by torch's ``weights_only`` loader, with
``argparse.Namespace`` (which VideoMAE's files hold) as the one class that is allowed besides.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import ConfigError, WeightsError
from infra.fetch import file_digest
from model.nets.config import MODEL_NAMES, ModelConfig, model_config

WEIGHTS_FILE = "weights.safetensors"
METADATA_KEY = "marlin"
POSITIONS = ("encoder.pos_embedding.emb", "decoder.pos_embedding.emb")
"""Where marlin-pytorch keeps its position tables."""

State = dict[str, Tensor]


@dataclass(frozen=True)
class LoadedWeights:
    """Tensors under marlin-pytorch's names, the network's shape, and where they come from.

    ``state`` has no position tables: they are computed. ``positions`` are those that the file brought: marlin-pytorch
    computes its tables in float32, 1e-4 off ours, and released weights were trained with them. ``provenance`` is what
    the file said of itself (dataset, licences, …), empty for foreign files. ``digest`` is the file's sha256.
    """

    config: ModelConfig
    state: State
    digest: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    positions: State = field(default_factory=dict)

    @property
    def has_decoder(self) -> bool:
        """Whether the file can reconstruct."""
        return "decoder.mask_token" in self.state and "enc_dec_proj.weight" in self.state

    @property
    def has_discriminator(self) -> bool:
        """Whether the file holds the discriminator."""
        return any(name.startswith("discriminator.") for name in self.state)


def load_weights(path: str | Path, name: str | None = None, config: ModelConfig | None = None) -> LoadedWeights:
    """Read a weight file.

    Args:
        path: a file (.safetensors, .pt, .ckpt, .pth, .bin), a run folder of pretraining, or a Hugging Face folder.
        name: expected size, with or without ``_ytf``; None infers it from the tensors.
        config: the network of a foreign file of no named size; our own files say their network themselves.

    Raises:
        WeightsError: absent, unreadable, refused (it holds code), of an unknown format, or of another size.
    """
    file = _find(Path(path))
    metadata, raw = _read(file)
    own = metadata.get(METADATA_KEY)
    if own is not None:
        facts = _own_facts(file, own)
        config = ModelConfig.model_validate(facts["config"])
        state, provenance = raw, facts.get("provenance", {})
    else:
        state, provenance = _renamed(file, raw), {}
        config = config or _infer(file, state)
    positions = {key: state[key] for key in POSITIONS if key in state}
    state = {key: value for key, value in state.items() if key not in positions}
    _check(file, config, state)
    for key, table in positions.items():
        if table.ndim != 3 or table.shape[1] != config.tokens:
            raise WeightsError(f"{file}: {key} is {tuple(table.shape)}; {config.name} has {config.tokens} tokens")
    if name is not None and config.encoder_dim != model_config(known_name(name)).encoder_dim:
        raise WeightsError(f"{file} holds a {config.name}, not a {known_name(name)}; name the size that it holds")
    return LoadedWeights(config, state, file_digest(file), provenance, positions)


def save_weights(path: Path, state: Mapping[str, Tensor], config: ModelConfig, provenance: Mapping[str, Any]) -> None:
    """Write a safetensors file atomically, with the shape and the provenance in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    facts = json.dumps({"config": config.model_dump(mode="json"), "provenance": dict(provenance)}, sort_keys=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    try:
        save_file(tensors, str(temporary), metadata={METADATA_KEY: facts, "format": "pt"})
        temporary.replace(path)
    except OSError as error:
        raise WeightsError(f"weights cannot be written to {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def known_name(name: str) -> str:
    """Return the size that a name of marlin-pytorch means: ``marlin_vit_base_ytf`` is ``marlin_vit_base``.

    Raises:
        ConfigError: no such size.
    """
    short = name.removesuffix("_ytf")
    if short not in MODEL_NAMES:
        raise ConfigError(f"unknown model '{name}'; known: {', '.join(MODEL_NAMES)} (with or without _ytf)")
    return short


def _find(path: Path) -> Path:
    if path.is_dir():
        for candidate in (WEIGHTS_FILE, "adapted.safetensors", "model.safetensors", "pytorch_model.bin"):
            if (path / candidate).is_file():
                return path / candidate
        raise WeightsError(f"{path} holds no {WEIGHTS_FILE}; name a weight file or the folder of a finished run")
    if not path.is_file():
        raise WeightsError(f"weights {path} do not exist; name a weight file or the folder of a finished run")
    return path


def _read(file: Path) -> tuple[dict[str, str], State]:
    if file.suffix == ".safetensors":
        try:
            with safe_open(str(file), framework="pt") as tensors:
                return tensors.metadata() or {}, {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file} is not a readable safetensors file ({error}); fetch it again") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            tree = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{file} holds more than tensors and is refused, since loading it could run code") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{file} is not a readable weight file ({' '.join(str(error).split())[:120]})") from error
    for key in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
            break
    if not isinstance(tree, dict):
        raise WeightsError(f"{file} holds no state dict")
    return {}, {key: value for key, value in tree.items() if isinstance(value, Tensor)}


def _own_facts(file: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
        ModelConfig.model_validate(facts["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file}: its header does not describe a network of this release") from error
    return dict(facts)


def _renamed(file: Path, raw: State) -> State:
    """Return foreign tensors under our names."""
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


def _infer(file: Path, state: State) -> ModelConfig:
    """Read the shape off the tensors; 224 pixels and 16 frames unless a position table says another token count."""
    embedding = state.get("encoder.patch_embedding.projection.weight")
    if embedding is None or embedding.ndim != 5:
        raise WeightsError(f"{file} holds no patch embedding; it is no encoder")
    dim, _, tubelet, patch, _ = embedding.shape
    depth = _depth(state, "encoder")
    for name in MODEL_NAMES:
        known = model_config(name)
        if (known.encoder_dim, known.encoder_depth) == (dim, depth) and (known.tubelet, known.patch_size) == (
            tubelet,
            patch,
        ):
            return known
    raise WeightsError(f"{file} holds an encoder of width {dim} and depth {depth}; known: {', '.join(MODEL_NAMES)}")


def _depth(state: State, side: str) -> int:
    found = [re.match(rf"{side}\.blocks\.(\d+)\.", name) for name in state]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _check(file: Path, config: ModelConfig, state: State) -> None:
    """Compare names and shapes with the network's; a file of a head alone has none of them and passes."""
    from model.nets.factory import build_mae

    with torch.device("meta"):
        network = {name: tuple(value.shape) for name, value in build_mae(config).state_dict().items()}
    parts = _PARTS if any(name.startswith("decoder.") for name in state) else _PARTS[:1]
    given = {name: tuple(value.shape) for name, value in state.items() if name.startswith(parts)}
    wanted = {name: shape for name, shape in network.items() if name.startswith(parts)}
    if given and given != wanted:
        different = sorted(name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name))
        raise WeightsError(
            f"{file} does not fit {config.name}: {len(different)} tensors differ, the first is {different[0]} "
            f"({given.get(different[0], 'absent')}, expected {wanted.get(different[0], 'none')})"
        )


_PARTS = ("encoder.", "decoder.", "enc_dec_proj.")

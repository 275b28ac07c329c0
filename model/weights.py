"""Weight files in and out: our safetensors, marlin-pytorch, Lightning, the original VideoMAE and Hugging Face's.

Whatever comes in leaves under the names of marlin-pytorch (``encoder.*``, ``decoder.*``, ``enc_dec_proj.weight``,
``discriminator.*``), position tables included: the file's own, or the computed ones where its format has none. Nothing
is executed from a file: pickles are read by torch's ``weights_only`` loader, with ``argparse.Namespace`` (which
VideoMAE's files hold) as the one class that is allowed besides.
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
from model.foreign_names import State, renamed
from model.nets.config import MODEL_NAMES, ModelConfig, model_config
from model.nets.factory import build_mae
from model.nets.patch_embed import sin_cos_table

WEIGHTS_FILE = "weights.safetensors"
CHECKPOINTS = "checkpoints"
"""Folder of a run that holds its checkpoints, each with weights of its own."""
METADATA_KEY = "marlin"
ENCODER, DISCRIMINATOR = "encoder.", "discriminator."
"""Prefixes of parts."""
_NETWORK = (ENCODER, "decoder.", "enc_dec_proj.")


@dataclass(frozen=True)
class LoadedWeights:
    """Tensors under marlin-pytorch's names, the network's shape, and where they come from.

    ``provenance`` is what the file said of itself (dataset, licences, …), empty for foreign files. ``digest`` is the
    file's sha256.
    """

    config: ModelConfig
    state: State
    digest: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_decoder(self) -> bool:
        """Whether the file can reconstruct."""
        return "decoder.mask_token" in self.state

    @property
    def has_discriminator(self) -> bool:
        """Whether the file holds the discriminator."""
        return any(name.startswith(DISCRIMINATOR) for name in self.state)

    @property
    def network(self) -> State:
        """The masked autoencoder's whole state or, without a decoder, the encoder's, as marlin-pytorch's file has it.

        Raises:
            WeightsError: the file holds neither (a head alone, say).
        """
        state = {name: value for name, value in self.state.items() if name.startswith(_NETWORK)}
        if not state:
            raise WeightsError(f"the weights hold no encoder; name {WEIGHTS_FILE} or adapted.safetensors of a run")
        return state

    @property
    def encoder(self) -> State:
        """The encoder's state; errors as ``network``."""
        return _part(self.network, ENCODER)

    @property
    def discriminator(self) -> State:
        """The discriminator's state, empty where the file has none."""
        return _part(self.state, DISCRIMINATOR)


def load_weights(path: str | Path, name: str | None = None, config: ModelConfig | None = None) -> LoadedWeights:
    """Read a weight file.

    Args:
        path: a file (.safetensors, .pt, .ckpt, .pth, .bin), the folder of a finished run or of one of its checkpoints,
            or a Hugging Face folder.
        name: expected size, with or without ``_ytf``; None takes whatever the file holds.
        config: the network of a foreign file of no named size; our own files say their network themselves.

    Raises:
        WeightsError: absent, unreadable, refused (it holds code), of an unknown format, or of another size.
    """
    file = _find(Path(path))
    metadata, raw = _read(file)
    own = metadata.get(METADATA_KEY)
    if own is not None:
        config, provenance = _own_facts(file, own)
        state = raw
    else:
        provenance, state = {}, _renamed(file, raw)
        config = config or _infer(file, state)
    for part, width in ((ENCODER, config.encoder_dim), ("decoder.", config.decoder_dim)):
        if f"{part}pos_embedding.emb" not in state and any(key.startswith(part) for key in state):
            state[f"{part}pos_embedding.emb"] = sin_cos_table(config.tokens, width)
    _check(file, config, state)
    if name is not None and config.name != known_name(name):
        raise WeightsError(f"{file} holds a {config.name}, not a {known_name(name)}; name the size that it holds")
    return LoadedWeights(config, state, file_digest(file), provenance)


def load_tensors(path: str | Path) -> State:
    """Return the tensors of any weight file under the names it gives them, as ``load_weights`` reads files."""
    return _read(_find(Path(path)))[1]


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
        saved = sorted(path.glob(f"{CHECKPOINTS}/step-*[0-9]/{WEIGHTS_FILE}"))
        if saved:
            raise WeightsError(f"the run {path} is not finished; finish it, or name its checkpoint {saved[-1].parent}")
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
        raise WeightsError(
            f"{file} is damaged or holds more than tensors; it is refused, since loading it could run code"
        ) from error
    except Exception as error:  # what unpickling garbage raises has no bounds: IndexError, struct.error, …
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise WeightsError(f"{file} is not a readable weight file ({said})") from error
    for key in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
            break
    if not isinstance(tree, dict):
        raise WeightsError(f"{file} holds no state dict")
    return {}, {key: value for key, value in tree.items() if isinstance(value, Tensor)}


def _own_facts(file: Path, text: str) -> tuple[ModelConfig, Mapping[str, Any]]:
    try:
        facts = json.loads(text)
        return ModelConfig.model_validate(facts["config"]), dict(facts.get("provenance", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file}: its header does not describe a network of this release") from error


def _renamed(file: Path, raw: State) -> State:
    try:
        return renamed(file, raw)
    except (RuntimeError, IndexError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} holds tensors that do not fit each other ({error})") from error


def _infer(file: Path, state: State) -> ModelConfig:
    """Read the named size off the tensors. No tensor says pixels and frames, so they are 224 and 16."""
    embedding = state.get("encoder.patch_embedding.projection.weight")
    if embedding is None or embedding.ndim != 5:
        raise WeightsError(f"{file} holds no patch embedding; it is no encoder")
    width, _, tubelet, patch, _ = embedding.shape
    found = (width, _depth(state), tubelet, patch)
    for known in map(model_config, MODEL_NAMES):
        if found == (known.encoder_dim, known.encoder_depth, known.tubelet, known.patch_size):
            return known
    raise WeightsError(
        f"{file} holds an encoder of width {width}, depth {found[1]} and {tubelet}×{patch}×{patch} patches, which is "
        f"none of {', '.join(MODEL_NAMES)}; register its shape (Marlin.register_model_from_yaml)"
    )


def _depth(state: State) -> int:
    found = [re.match(r"encoder\.blocks\.(\d+)\.", name) for name in state]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _check(file: Path, config: ModelConfig, state: State) -> None:
    """Compare names and shapes with the network's; a file of a head alone has none of them and passes."""
    with torch.device("meta"):
        network = {name: tuple(value.shape) for name, value in build_mae(config).state_dict().items()}
    parts = _NETWORK if any(name.startswith("decoder.") for name in state) else (ENCODER,)
    given = {name: tuple(value.shape) for name, value in state.items() if name.startswith(parts)}
    wanted = {name: shape for name, shape in network.items() if name.startswith(parts)}
    if given and given != wanted:
        different = sorted(name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name))
        raise WeightsError(
            f"{file} does not fit {config.name}: {len(different)} tensors differ, the first is {different[0]} "
            f"({given.get(different[0], 'absent')}, expected {wanted.get(different[0], 'none')})"
        )


def _part(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

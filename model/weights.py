"""Weight files in and out: our safetensors, marlin-pytorch, Lightning, the original VideoMAE and Hugging Face's.

Whatever comes in leaves under the names of marlin-pytorch (``encoder.*``, ``decoder.*``, ``enc_dec_proj.weight``,
``discriminator.*``), position tables included: the file's own, or the computed ones where its format has none. Nothing
is executed from a file: pickles are read by torch's ``weights_only`` loader, with ``argparse.Namespace`` (which
VideoMAE's files hold) as the one class that is allowed besides. Nothing larger than the file is made of it before its
tensors are known to be those of a network that we build.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import ConfigError, WeightsError
from infra.fetch import file_digest
from model.foreign_names import State, head_in_our_order, renamed
from model.huggingface import CONFIG_FILE, read_huggingface_config
from model.nets.config import MODEL_NAMES, ModelConfig, model_config, size_name
from model.nets.factory import build_mae
from model.nets.patch_embed import sin_cos_table

WEIGHTS_FILE = "weights.safetensors"
CHECKPOINTS = "checkpoints"
"""Folder of a run that holds its checkpoints, each with weights of its own."""
METADATA_KEY = "marlin"
ENCODER, DISCRIMINATOR = "encoder.", "discriminator."
"""Prefixes of parts."""
_TABLE = ".pos_embedding.emb"
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MOST_TIED = 4
"""Names that tensors may have on average: copies of them take no more than so many times the file's size."""
_ALLOWING = threading.Lock()
"""Held while ``argparse.Namespace`` is allowed: torch has one list for the process, which the first to end clears."""


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
        parts = _parts(self.state)
        state = {name: value for name, value in self.state.items() if name.startswith(parts)}
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
        config: the network of a foreign file of no named size; our own files and Hugging Face's folders say their
            network themselves.

    Raises:
        WeightsError: absent, unreadable, refused (it holds code), of an unknown format, or of another size.
        ConfigError: a folder's ``config.json`` describes a network that cannot be built.
    """
    file = _find(Path(path))
    metadata, raw = _read(file)
    provenance: Mapping[str, Any] = {}
    if (own := metadata.get(METADATA_KEY)) is not None:
        config, provenance = _own_facts(file, own)
        state = _checked(file, config, raw)
    else:
        config, state = _foreign(file, raw, config)
    if name is not None and config.name != known_name(name):
        raise WeightsError(f"{file} holds a {config.name}, not a {known_name(name)}; name the size that it holds")
    return LoadedWeights(config, state, file_digest(file), provenance)


def load_tensors(path: str | Path) -> State:
    """Return the tensors of any weight file under the names it gives them, as ``load_weights`` reads files."""
    return _read(_find(Path(path)))[1]


def weights_digest(path: str | Path) -> str:
    """Return the sha256 of the file that is read for ``path``; WeightsError where there is none that can be."""
    file = _find(Path(path))
    try:
        return file_digest(file)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror or error}); name another weight file") from error


def save_weights(path: Path, state: Mapping[str, Tensor], config: ModelConfig, provenance: Mapping[str, Any]) -> None:
    """Write a safetensors file atomically, with the shape and the provenance in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = json.dumps({"config": config.model_dump(mode="json"), "provenance": dict(provenance)}, sort_keys=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with replaced_when_whole(path) as temporary:
        save_file(tensors, str(temporary), metadata={METADATA_KEY: facts, "format": "pt"})


@contextmanager
def replaced_when_whole(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; the file takes the place of ``path`` when the block ends well.

    A link stays, and what it names is replaced. A device or a pipe is written to as it is, never replaced.

    Raises:
        WeightsError: the disk refuses; what lay at ``path`` is as it was.
    """
    is_special = path.exists() and not path.is_file()
    target = Path(os.path.realpath(path))
    temporary = path if is_special else target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield temporary
        if not is_special:
            temporary.replace(target)
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path} cannot be written ({said}); free the disk or name another place") from error
    finally:
        if not is_special:
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
        if index := next(path.glob("*.index.json"), None):
            raise WeightsError(
                f"{path} holds its weights in shards ({index.name}), which are not read; merge them into one file "
                "(save_pretrained with a max_shard_size above their size)"
            )
        raise WeightsError(f"{path} holds no {WEIGHTS_FILE}; name a weight file or the folder of a finished run")
    if not path.is_file():
        raise WeightsError(f"weights {path} do not exist; name a weight file or the folder of a finished run")
    return path


def _read(file: Path) -> tuple[dict[str, str], State]:
    if file.suffix == ".safetensors":
        try:
            with safe_open(str(file), framework="pt") as tensors:
                named = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
                return tensors.metadata() or {}, _plain(file, named)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file} is not a readable safetensors file ({error}); fetch it again") from error
    try:
        _refuse_compressed(file)
        with _ALLOWING, torch.serialization.safe_globals([argparse.Namespace]):
            tree = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} is damaged or holds more than tensors; it is refused, since loading it could run code"
        ) from error
    except Exception as error:  # what unpickling garbage raises has no bounds: IndexError, struct.error, …
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise WeightsError(f"{file} is not a readable weight file ({said}); fetch it again") from error
    for key in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
            break
    if not isinstance(tree, dict):
        raise WeightsError(f"{file} holds no state dict; name a file that torch.save wrote of one")
    named = {key: value for key, value in tree.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return {}, _plain(file, named)


def _refuse_compressed(file: Path) -> None:
    """Refuse what torch never writes and yet reads, unpacking a thousand times the file's size."""
    with file.open("rb") as start:
        if start.read(4) != b"PK\x03\x04":  # by which torch tells its zip files from its older ones
            return
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its entries are compressed, as torch.save never does")


def _plain(file: Path, tensors: State) -> State:
    """Refuse tensors that are not simply numbers in the file: later steps copy them, and take them for what they say.

    A file of a few bytes can name a meta or sparse tensor, or one whose strides show the same bytes again and again.
    Tied tensors, the same under several names, count once, as long as there are not many.
    """
    for name, value in tensors.items():
        usual = value.layout is torch.strided and value.device.type == "cpu" and not value.is_nested
        if not usual or value.is_complex() or value.is_quantized:
            raise WeightsError(f"{file}: {_short(name)} is no dense tensor of real numbers; save it as one")
    views = {(value.data_ptr(), value.dtype, value.shape, value.stride()): value.nbytes for value in tensors.values()}
    named, size = sum(value.nbytes for value in tensors.values()), file.stat().st_size
    if sum(views.values()) > size or named > MOST_TIED * size:
        raise WeightsError(f"{file} names more numbers than it holds; save each tensor as a contiguous copy")
    return {name: value.detach() for name, value in tensors.items()}


def _own_facts(file: Path, text: str) -> tuple[ModelConfig, Mapping[str, Any]]:
    try:
        facts = json.loads(text)
        return ModelConfig.model_validate(facts["config"]), dict(facts.get("provenance", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{file}: its header does not describe a network of this release") from error


def _foreign(file: Path, raw: State, config: ModelConfig | None) -> tuple[ModelConfig, State]:
    """Shape and tensors of a file that does not say its network itself."""
    try:
        state, library = renamed(file, raw)
    except (RuntimeError, IndexError) as error:
        raise WeightsError(f"{file} holds tensors that do not fit each other ({error})") from error
    beside = file.with_name(CONFIG_FILE)
    if library == "huggingface" and beside.is_file():
        config = read_huggingface_config(beside)
    config = config or _infer(file, state)
    state = _checked(file, config, state)
    return config, state if library == "marlin" else head_in_our_order(state, config.tubelet, config.patch_size)


def _infer(file: Path, state: State) -> ModelConfig:
    """Read the named size off the tensors. No tensor says pixels, frames and heads, so they are the size's own."""
    embedding = state.get("encoder.patch_embedding.projection.weight")
    if embedding is None or embedding.ndim != 5:
        raise WeightsError(f"{file} holds no patch embedding; it is no encoder")
    width, _, tubelet, patch, _ = embedding.shape
    depth = _depth(state)
    if (name := size_name(width, depth, tubelet, patch)) is not None:
        return model_config(name)
    raise WeightsError(
        f"{file} holds an encoder of width {width}, depth {depth} and {tubelet}×{patch}×{patch} patches, which is "
        f"none of {', '.join(MODEL_NAMES)}; register its shape (Marlin.register_model_from_yaml)"
    )


def _depth(state: State) -> int:
    found = [re.match(r"encoder\.blocks\.(\d{1,4})\.", name) for name in state]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _checked(file: Path, config: ModelConfig, state: State) -> State:
    """Return the state with the position tables it lacks, once names and shapes are known to be the network's.

    A file of a head alone has none of them and passes.
    """
    parts = _parts(state)
    given = {name: tuple(value.shape) for name, value in state.items() if name.startswith(parts)}
    if not given:
        return state
    with torch.device("meta"):
        network = build_mae(config).state_dict()
    wanted = {name: tuple(value.shape) for name, value in network.items() if name.startswith(parts)}
    tables = {name: shape for name, shape in wanted.items() if name.endswith(_TABLE) and name not in given}
    different = sorted(name for name in given.keys() | wanted.keys() if (given | tables).get(name) != wanted.get(name))
    if different:
        first = different[0]
        raise WeightsError(
            f"{file} does not fit {config.name}: {len(different)} tensors differ, the first is {_short(first)} "
            f"({given.get(first, 'absent')}, expected {wanted.get(first, 'none')}); name the network it was saved from"
        )
    for name, value in state.items():
        if name.startswith((*parts, DISCRIMINATOR)) and value.dtype not in _FLOATS:
            raise WeightsError(f"{file}: {_short(name)} is {value.dtype}; save it in a floating-point type")
    return state | {name: sin_cos_table(*shape[1:]) for name, shape in tables.items()}


def _parts(state: State) -> tuple[str, ...]:
    """Prefixes of the network's tensors: without a decoder it is an encoder, whatever else the file holds."""
    has_decoder = any(name.startswith("decoder.") for name in state)
    return (ENCODER, "decoder.", "enc_dec_proj.") if has_decoder else (ENCODER,)


def _part(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}…"

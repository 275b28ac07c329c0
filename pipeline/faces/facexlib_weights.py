"""The production back-end's weight files: where they are, what they must be, and how they are loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import WeightsError
from infra.fetch import fetch_file

if TYPE_CHECKING:
    from torch import nn

RELEASES = "https://github.com/xinntao/facexlib/releases/download"
WIDER = "MIT code; trained on WIDER FACE (non-commercial research)"
CELEBA = "MIT code; trained on CelebAMask-HQ (non-commercial research)"


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A weight file of facexlib's releases: its address, sha256 (hex), and the terms it stands under."""

    address: str
    sha256: str
    licence: str

    @property
    def name(self) -> str:
        """Its file name."""
        return self.address.rsplit("/", 1)[-1]


FILES = {
    "retinaface_mobile0.25": WeightFile(
        f"{RELEASES}/v0.1.0/detection_mobilenet0.25_Final.pth",
        "38ec7bb3c9cbfe2f40edabc05fab970a6d648747cbc534092be85d5eb9b37ed0",
        WIDER,
    ),
    "retinaface_resnet50": WeightFile(
        f"{RELEASES}/v0.1.0/detection_Resnet50_Final.pth",
        "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
        WIDER,
    ),
    "bisenet": WeightFile(
        f"{RELEASES}/v0.2.0/parsing_bisenet.pth",
        "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        CELEBA,
    ),
    "parsenet": WeightFile(
        f"{RELEASES}/v0.2.2/parsing_parsenet.pth",
        "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
        CELEBA,
    ),
}
"""By the names that the config uses."""


def weights_folder() -> Path:
    """Where fetched weights are kept: ``$XDG_CACHE_HOME/marlin-system/weights``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "marlin-system" / "weights"


def fetch_weights(part: str, sources: tuple[str, ...]) -> Path:
    """Return the local file of a part, checked by sha256, from ``sources`` or else from facexlib's own address.

    Raises:
        WeightsError: nobody has it; the sentence says what to do.
    """
    file = FILES[part]
    return fetch_file(file.name, file.sha256, (*sources, file.address), weights_folder())


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a state dict strictly; the file's own code never runs.

    Raises:
        WeightsError: the file is no plain state dict, or does not fit the network.
    """
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()}, strict=True)
    except (pickle.UnpicklingError, RuntimeError, AttributeError, EOFError) as error:
        cause = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path.name} does not hold the weights of {type(net).__name__}: {cause}") from error

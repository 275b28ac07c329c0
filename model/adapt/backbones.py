"""The baselines of the paper's tables as feature extractors, so that one flow trains them and ours alike.

R3D and MViT are torchvision's, Xception is timm's. They start at random unless a state dict of theirs is at hand; a
result of published networks that were pretrained on other data (Kinetics, ImageNet) is not comparable with that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from infra.errors import WeightsError
from model.nets.patch_embed import to_unit_range
from model.weights import load_tensors

FRAMES = 16


class Backbone(NamedTuple):
    """How to build a network without its classifier, the width of its features, and the frame size it wants.

    ``licence`` is the code's; weights of it have terms of their own.
    """

    build: Callable[[], nn.Module]
    width: int
    image_size: int
    licence: str


class VideoFeatures(nn.Module):
    """A network over clips (B, 3, T, S, S)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip_BTHWC: Tensor) -> Tensor:
        """Return features (B, D) of uint8 clips (B, T, H, W, 3)."""
        features_BD: Tensor = self.network(_normalised(clip_BTHWC, _dtype(self)).permute(0, 4, 1, 2, 3))
        return features_BD


class FrameFeatures(nn.Module):
    """A network over single frames; a clip's feature is the mean over its frames."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip_BTHWC: Tensor) -> Tensor:
        """Return features (B, D) of uint8 clips (B, T, H, W, 3)."""
        batch, frames = clip_BTHWC.shape[:2]
        pictures = _normalised(clip_BTHWC, _dtype(self)).permute(0, 1, 4, 2, 3).flatten(0, 1)
        features: Tensor = self.network(pictures).view(batch, frames, -1).mean(dim=1)
        return features


def _r3d() -> nn.Module:
    from torchvision.models.video import r3d_18

    return VideoFeatures(_headless(r3d_18(weights=None), "fc"))


def _mvit(name: str) -> nn.Module:
    from torchvision.models import video

    return VideoFeatures(_headless(getattr(video, name)(weights=None), "head"))


def _xception() -> nn.Module:
    import timm

    return FrameFeatures(timm.create_model("legacy_xception", pretrained=False, num_classes=0))


BACKBONES: dict[str, Backbone] = {
    "r3d": Backbone(_r3d, 512, 112, "torchvision: BSD-3-Clause"),
    "mvit_v1": Backbone(lambda: _mvit("mvit_v1_b"), 768, 224, "torchvision: BSD-3-Clause"),
    "mvit_v2": Backbone(lambda: _mvit("mvit_v2_s"), 768, 224, "torchvision: BSD-3-Clause"),
    "xception": Backbone(_xception, 2048, 224, "timm: Apache-2.0"),
}


def build_backbone(name: str, weights: str, seed: int) -> nn.Module:
    """Build a baseline, from its own state dict where ``weights`` names one, else at random from ``seed``.

    Raises:
        WeightsError: the file holds another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any = BACKBONES[name].build()
    if weights:
        state = load_tensors(weights)
        missing, unexpected = module.network.load_state_dict(state, strict=False)
        heads = [key for key in unexpected if key.split(".")[0] in ("fc", "head", "last_linear")]
        if missing or len(heads) < len(unexpected):
            raise WeightsError(
                f"{weights} holds no {name}: {len(missing)} tensors are absent, {len(unexpected)} unknown"
            )
    return module


def _headless(network: Any, head: str) -> nn.Module:
    setattr(network, head, nn.Identity())
    return network


def _normalised(clip_BTHWC: Tensor, dtype: torch.dtype) -> Tensor:
    """In [-1, 1] or so: torchvision's video networks and Xception expect centred input."""
    return (to_unit_range(clip_BTHWC, dtype) - 0.45) / 0.225


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype

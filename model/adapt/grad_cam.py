"""Grad-CAM over the tokens of a clip: which places and moments speak for an output.

Written out (docs/adr/0022): the maintained packages average gradients over the last axes of feature maps, so tokens
would have to be wrapped to look like pictures and three axes of space and time squeezed into two; it is ten lines.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from model.adapt.classifier import Classifier
from model.adapt.encoder import PooledEncoder


def grad_cam(classifier: Classifier, clip_THWC: np.ndarray, output: int) -> np.ndarray:
    """Return a map float32 (T, S, S) in [0, 1]: where the clip speaks for ``output``; all 0 where nothing does.

    Activations are those after the first LayerNorm of the last block: later ones get the same gradient everywhere,
    since features are means over tokens.

    Args:
        classifier: a fine-tuned encoder of ours.
        clip_THWC: uint8 (T, S, S, 3).
        output: index of the logit.

    Source: Selvaraju et al., 2017 (arXiv:1610.02391). Differs: space and time are one set of places.
    """
    encoder = classifier.encoder
    if not isinstance(encoder, PooledEncoder):
        raise TypeError(f"{type(encoder).__name__} has no tokens")
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, tokens_BLD: Tensor) -> None:
        tokens_BLD.retain_grad()
        kept.append(tokens_BLD)

    last: Any = encoder.encoder.blocks[-1]
    hook = last.norm1.register_forward_hook(keep)
    try:
        device = next(classifier.parameters()).device
        with torch.enable_grad():
            classifier(torch.from_numpy(clip_THWC)[None].to(device))[0, output].backward()
    finally:
        hook.remove()
        classifier.zero_grad(set_to_none=True)
    (tokens_BLD,) = kept
    assert tokens_BLD.grad is not None
    weights_D = tokens_BLD.grad[0].mean(dim=0)
    grid = encoder.encoder.config.grid
    map_Thw = (tokens_BLD[0].detach() @ weights_D).relu().view(1, 1, *grid)
    frames, side = clip_THWC.shape[:2]
    map_TSS = torch.nn.functional.interpolate(map_Thw, (frames, side, side), mode="trilinear", align_corners=False)[
        0, 0
    ]
    top = float(map_TSS.max())
    found: np.ndarray = (map_TSS / top if top > 0 else map_TSS).float().cpu().numpy()
    return found


def overlay(clip_THWC: np.ndarray, map_TSS: np.ndarray, count: int = 6) -> np.ndarray:
    """Return ``count`` frames of a clip in a row, plain and below that under their map, uint8 (2S, count·S, 3)."""
    chosen = np.linspace(0, len(clip_THWC) - 1, count).round().astype(int)
    plain = np.concatenate([clip_THWC[t] for t in chosen], axis=1)
    heat = np.concatenate(
        [cv2.applyColorMap((map_TSS[t] * 255).astype(np.uint8), cv2.COLORMAP_JET) for t in chosen], axis=1
    )
    mixed = cv2.addWeighted(plain, 0.55, np.ascontiguousarray(heat[..., ::-1]), 0.45, 0)
    return np.concatenate([plain, mixed])

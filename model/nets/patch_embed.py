"""Clips to patches and patches to tokens.

Shapes: B clips, C = 3 channels, T frames, H × W pixels, L tokens of which V are visible and M masked, P numbers in a
patch, D width. Patch numbers are ordered (channel, time, row, column), as MARLIN does; VideoMAE orders them
(time, row, column, channel).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from einops import rearrange
from torch import Tensor, nn


def to_unit_range(clip_BCTHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the clip in [0, 1]: uint8 is divided by 255, floating point is taken as it is. No mean or std."""
    if clip_BCTHW.dtype == torch.uint8:
        return clip_BCTHW.to(dtype).div_(255)
    return clip_BCTHW.to(dtype)


def as_clip(frames_THWC: Tensor) -> Tensor:
    """Return frames, channels last as videos have them, as a batch of one clip (1, 3, T, H, W)."""
    return frames_THWC.permute(3, 0, 1, 2)[None]


def patchify(clip_BCTHW: Tensor, tubelet: int, patch: int) -> Tensor:
    """Return patches (B, L, P) of a clip, tokens in (time, row, column) order. Inverse of ``unpatchify``."""
    return rearrange(clip_BCTHW, "b c (t p0) (h p1) (w p2) -> b (t h w) (c p0 p1 p2)", p0=tubelet, p1=patch, p2=patch)


def unpatchify(patches_BLP: Tensor, grid: tuple[int, int, int], tubelet: int, patch: int) -> Tensor:
    """Return the clip (B, 3, T, H, W) that ``patchify`` cut up; ``grid`` is (t, h, w) in tokens."""
    t, h, w = grid
    return rearrange(
        patches_BLP,
        "b (t h w) (c p0 p1 p2) -> b c (t p0) (h p1) (w p2)",
        t=t, h=h, w=w, p0=tubelet, p1=patch, p2=patch,
    )  # fmt: skip


def token_indices(wanted_BL: Tensor) -> Tensor:
    """Return where ``wanted_BL`` is True, rising, int64 (B, N); every clip must want the same N."""
    return wanted_BL.nonzero()[:, 1].reshape(len(wanted_BL), -1)


def take_tokens(values_BLX: Tensor, index_BN: Tensor) -> Tensor:
    """Return the rows (B, N, X) that ``index_BN`` names; values of one clip (1, L, X) serve all."""
    if len(values_BLX) == 1:
        return values_BLX[0, index_BN]
    return values_BLX[torch.arange(len(index_BN), device=index_BN.device)[:, None], index_BN]


class PatchEmbedding(nn.Module):
    """Linear tubelet embedding. The weight is kept as Conv3d's, under the names of marlin-pytorch.

    A convolution whose kernel equals its stride is one matrix product over patches; doing it so lets us embed only
    the visible patches, a tenth of them in pretraining.
    """

    def __init__(self, dim: int, tubelet: int, patch: int) -> None:
        super().__init__()
        self.tubelet, self.patch = tubelet, patch
        size = (tubelet, patch, patch)
        self.projection = nn.Conv3d(3, dim, kernel_size=size, stride=size)

    def forward(self, patches_BNP: Tensor) -> Tensor:
        """Return tokens (B, N, D) of patches (B, N, P)."""
        return nn.functional.linear(patches_BNP, self.projection.weight.flatten(1), self.projection.bias)


def sin_cos_table(tokens: int, dim: int) -> Tensor:
    """Return fixed 1-D sin-cos positions over the token index, fp32 (1, L, D).

    Dimension i has angle ``position / 10000^(2·(i // 2) / D)``, sine on even and cosine on odd dimensions; computed in
    fp64 and rounded once.
    """
    position_L1 = torch.arange(tokens, dtype=torch.float64)[:, None]
    i_D = torch.arange(dim)
    angle_LD = position_L1 / 10000 ** (2 * (i_D // 2).double() / dim)
    return torch.where(i_D % 2 == 0, angle_LD.sin(), angle_LD.cos()).float()[None]


class SinCosPositions(nn.Module):
    """A fixed position table, ``emb`` (1, L, D): ``sin_cos_table``, until a state dict brings another.

    The table is part of the state dict, under the name that marlin-pytorch gives it, because a network is right with
    the table it was trained with only: marlin-pytorch computes its own in fp32 throughout, up to 1e-4 off in late
    positions, which moves features by 6e-5.
    """

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("emb", sin_cos_table(tokens, dim))
        self.emb: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the network to another device but not into another dtype: bf16 would round what is saved."""
        table_1LD = self.emb
        super()._apply(fn, recurse)
        if self.emb.dtype != table_1LD.dtype:
            self.emb = table_1LD.to(self.emb.device)
        return self

"""Clips to patches and patches to tokens.

Shapes: B clips, C = 3 channels, T frames, H × W pixels, L tokens of which V are visible and M masked, P numbers in a
patch, D width. Patch numbers are ordered (channel, time, row, column), as MARLIN does; VideoMAE orders them
(time, row, column, channel).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn


def to_unit_range(clip_BCTHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the clip in [0, 1]: uint8 is divided by 255, floating point is taken as it is. No mean or std."""
    if clip_BCTHW.dtype == torch.uint8:
        return clip_BCTHW.to(dtype).div_(255)
    return clip_BCTHW.to(dtype)


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


def select_tokens(values_BLX: Tensor, wanted_BL: Tensor) -> Tensor:
    """Return the rows where ``wanted_BL`` is True, (B, N, X), in token order; every clip must want the same N."""
    batch, _, width = values_BLX.shape
    return values_BLX[wanted_BL].reshape(batch, -1, width)


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


class SinCosPositions(nn.Module):
    """Fixed 1-D sin-cos positions over the token index, (1, L, D).

    Dimension i has angle ``position / 10000^(2·(i // 2) / D)``, sine on even and cosine on odd dimensions.

    The table is computed, so our state dicts leave it out. A state dict that holds one, as marlin-pytorch's do, loads
    strictly and its table is taken: theirs is computed in fp32 throughout and differs from the exact one by up to 1e-4
    in late positions, which moves features by 6e-5.
    """

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        position_L1 = torch.arange(tokens, dtype=torch.float64)[:, None]
        i_D = torch.arange(dim)
        angle_LD = position_L1 / 10000 ** (2 * (i_D // 2).double() / dim)
        table_LD = torch.where(i_D % 2 == 0, angle_LD.sin(), angle_LD.cos())
        self.register_buffer("emb", table_LD.float()[None], persistent=False)
        self.emb: Tensor
        self.register_load_state_dict_pre_hook(_take_table)


@torch.no_grad()
def _take_table(
    module: SinCosPositions, state: dict[str, Tensor], prefix: str, _metadata: object, _strict: object,
    _missing: object, _unexpected: object, errors: list[str],
) -> None:  # fmt: skip
    table_1LD = state.pop(f"{prefix}emb", None)
    if table_1LD is None:
        return
    if table_1LD.shape == module.emb.shape:
        module.emb.copy_(table_1LD)
    else:
        errors.append(f"{prefix}emb is {tuple(table_1LD.shape)}; the network has {tuple(module.emb.shape)}")

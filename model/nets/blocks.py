"""Pre-norm transformer blocks, with the parameter names of marlin-pytorch.

Shapes: B clips, N tokens, D width, H heads, E = D / H.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    """Multi-head self-attention; biases for q and v only, none for k (as in BEiT and VideoMAE)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return (B, N, D)."""
        batch, tokens, dim = x_BND.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x_BND, self.qkv.weight, bias)
        q_BHNE, k_BHNE, v_BHNE = qkv.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out_BHNE = F.scaled_dot_product_attention(q_BHNE, k_BHNE, v_BHNE)
        return self.proj(out_BHNE.transpose(1, 2).reshape(batch, tokens, dim))


class _Layer(nn.Module):
    """A Linear and what follows it; the nesting gives ``layers.N.linear``, the names of marlin-pytorch."""

    def __init__(self, wide_in: int, wide_out: int, activation: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.linear = nn.Linear(wide_in, wide_out)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.activation is None else self.activation(x)


class Mlp(nn.Module):
    """Two Linear layers with ``activation`` between them."""

    def __init__(self, wide_in: int, hidden: int, wide_out: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.Sequential(_Layer(wide_in, hidden, activation), _Layer(hidden, wide_out, None))

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, wide_out)."""
        return self.layers(x)


class Block(nn.Module):
    """Pre-norm block: attention, then an MLP with exact GELU; no dropout, no layer scale."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio * dim, dim, F.gelu)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return (B, N, D)."""
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


def run_blocks(blocks: nn.ModuleList, x_BND: Tensor, checkpointing: bool) -> Tensor:
    """Apply blocks in order; with ``checkpointing`` their activations are computed again in the backward pass."""
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            x_BND = checkpoint(block, x_BND, use_reentrant=False)
        else:
            x_BND = block(x_BND)
    return x_BND


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every Linear below ``module``, as in the released code."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

"""What pretraining should cost on many H100s, from shapes and shares: ``python -m benchmarks.gpu_budget``.

Arithmetic, not a measurement; the shares were measured on one GPU (``benchmarks.gpu_step``). docs/gpu-budget.md says
where the constants below come from and what follows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from model.masking import visible_tokens
from model.nets.config import ModelConfig, model_config
from model.nets.factory import build_discriminator, build_mae
from model.nets.flops import step_flops
from model.train_config import OptimConfig

PEAK_FLOPS, HBM_BYTES = 989e12, 3.35e12
"""H100 SXM: dense bf16, and its memory, per second (data sheet)."""
MATMUL_SHARE, ATTENTION_SHARE, HBM_SHARE = 0.7, 0.29, 0.8
"""Of those, what matrix products, attention (with what it computes again) and element-wise kernels reach."""
GAPS = 0.11
"""Of a step, when the GPU waits for its next kernel."""
NVLINK_BYTES, NETWORK_BYTES, OVERLAP = 350e9, 40e9, 0.5
"""All-reduce bandwidth of a GPU within a node, and between nodes at 400 Gbit/s each; share hidden by the backward."""
ELEMENTWISE, ELEMENTWISE_COMPILED, KEPT = 200, 100, 18
"""Times a token's width that a block reads and writes besides its products, both passes, one kernel an operation and
where ``torch.compile`` fuses them; and that it keeps for the backward pass."""
OPTIMIZER_BYTES = 30
"""Read and written for one parameter: gradient, fp32 master and two moments there and back, bf16 copy."""
CLIP_CORE_S, NODE_CORES = 9.0e-3, 112
"""Core seconds to read, decode and mask a clip (benchmarks/loader.py, 2026-11-24); cores of a node with 8 GPUs."""
CLIP_BYTES = 28e3
"""Of a stored clip of 64 frames."""
GPUS_PER_NODE, RATIO = 8, 0.9
CASES = (("marlin_vit_small", 128), ("marlin_vit_base", 64), ("marlin_vit_large", 32), ("marlin_vit_huge", 16))
"""Size, and clips a GPU and step."""


class Budget(NamedTuple):
    """One GPU's step: seconds of its parts, MFU, bytes held; clips a second of all GPUs, computed and decodable."""

    matmul_s: float
    elementwise_s: float
    optimizer_s: float
    exchange_s: float
    step_s: float
    mfu: float
    compiled_mfu: float
    held_bytes: float
    clips_per_s: float
    decoded_per_s: float


def budget(cfg: ModelConfig, batch: int, nodes: int) -> Budget:
    """Return the budget of ``batch`` clips a GPU, bf16, ZeRO 1."""
    gpus = nodes * GPUS_PER_NODE
    visible = visible_tokens(cfg.grid, RATIO)
    flops = batch * step_flops(cfg, visible, cfg.tokens - visible)
    scores = visible**2 * cfg.encoder_depth * cfg.encoder_dim + cfg.tokens**2 * cfg.decoder_depth * cfg.decoder_dim
    attention = batch * 3 * 4 * scores
    with torch.device("meta"):
        networks = build_mae(cfg), build_discriminator(cfg)
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    widths = visible * cfg.encoder_depth * cfg.encoder_dim + cfg.tokens * cfg.decoder_depth * cfg.decoder_dim
    matmul_s = ((flops - attention) / MATMUL_SHARE + attention / ATTENTION_SHARE) / PEAK_FLOPS
    elementwise_s = batch * 2 * ELEMENTWISE * widths / (HBM_BYTES * HBM_SHARE)
    optimizer_s = OPTIMIZER_BYTES * parameters / gpus / (HBM_BYTES * HBM_SHARE)
    # gradients are reduced in fp32, weights gathered in bf16: a ring moves (n − 1) / n of either
    link = NVLINK_BYTES if nodes == 1 else NETWORK_BYTES
    exchange_s = (2 * 4 + 2) * parameters * (gpus - 1) / gpus / link * (1 - OVERLAP)
    step_s = (matmul_s + elementwise_s + optimizer_s + exchange_s) / (1 - GAPS)
    compiled_s = step_s - elementwise_s * (1 - ELEMENTWISE_COMPILED / ELEMENTWISE) / (1 - GAPS)
    patches = 4 * (cfg.tokens - visible) * cfg.patch_values * 4  # target, prediction, its gradient, D's copy
    held = parameters * (2 + 4 + 4 + 12 / gpus) + batch * (2 * KEPT * widths + patches)
    return Budget(
        matmul_s, elementwise_s, optimizer_s, exchange_s, step_s, flops / step_s / PEAK_FLOPS,
        flops / compiled_s / PEAK_FLOPS, held,
        gpus * batch / compiled_s, nodes * NODE_CORES / CLIP_CORE_S,
    )  # fmt: skip


def main() -> None:
    """Print one table for a node and one for sixteen."""
    clips = OptimConfig().total_clips
    for nodes in (1, 16):
        print(f"\n**{nodes} × {GPUS_PER_NODE} H100, bf16, ZeRO 1; the whole run is {clips / 1e6:.2f} M clips**\n")
        print(
            "| size | clips a GPU | products | element-wise | optimiser | exchange | step | MFU | compiled | memory | "
            "clips/s | decodable/s | run, computing | run, decoding | read |"
        )
        print("|---" * 15 + "|")
        for name, batch in CASES:
            b = budget(model_config(name), batch, nodes)
            milliseconds = " | ".join(f"{1e3 * s:.1f} ms" for s in b[:5])
            hours = " | ".join(f"{clips / rate / 3600:.2f} h" for rate in (b.clips_per_s, b.decoded_per_s))
            rate = min(b.clips_per_s, b.decoded_per_s)
            print(
                f"| {name.removeprefix('marlin_vit_')} | {batch} | {milliseconds} | {b.mfu:.0%} | "
                f"{b.compiled_mfu:.0%} | {b.held_bytes / 1e9:.0f} GB | {b.clips_per_s:.0f} | "
                f"{b.decoded_per_s:.0f} | {hours} | {rate * CLIP_BYTES / 1e6:.0f} MB/s |"
            )


if __name__ == "__main__":
    main()

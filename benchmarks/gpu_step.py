"""A training step on one GPU: MFU, memory, and where the time goes: ``python -m benchmarks.gpu_step``.

``pretrain_step`` on its two DeepSpeed engines in bf16 with ZeRO 1, one rank, uint8 clips already on the device: what a
run does but for reading. MFU is the counted arithmetic (``model/nets/flops.py``) over the data sheet's dense bf16 peak;
beside it stands the share of what a large product of random matrices reached in the same run. The reference's order of
work, from marlin-pytorch's modules, runs in fp32 as released, and under autocast to bf16.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.train_step import RATIO, one_rank_engines
from model.data.batch import ClipBatch
from model.masking import decoder_targets, make_mask, target_tokens, visible_tokens
from model.nets.config import ModelConfig, model_config
from model.nets.flops import step_flops
from model.train.step import pretrain_step
from model.train_config import AdversarialConfig

DATA_SHEET_PEAK = 989e12
"""Dense bf16 of an H100 or H200 SXM."""
MFU_AIM = 0.5
ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
KINDS = (
    ("attention", ("flash", "fmha", "sdpa", "attention", "mha")),
    ("products", ("gemm", "cutlass", "nvjet", "xmma", "cublas", "matmul", "splitk")),
    ("optimiser", ("adam", "multi_tensor")),
    ("copies", ("memcpy", "memset", "copy", "catarray", "index", "fill")),
    ("exchange", ("nccl",)),
    ("compiled", ("triton",)),
    ("norms and sums", ("layer_norm", "layernorm", "reduce", "norm")),
    ("element-wise", ("elementwise", "vectorized", "gelu")),
)
"""Names of kernels that tell what they do; the first that fits counts."""


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cases", nargs="*", default=["base:128:eager", "base:128:compiled", "large:64:eager", "large:64:compiled"],
        metavar="SIZE:BATCH:HOW",
        help="HOW joins words by +: eager, compiled, cudnn (its attention), half (decoder masking 0.5), reference, "
        "autocast (the reference in bf16)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--profile", type=Path, help="write kernels and their times here")
    parser.add_argument("--precision", default="bf16")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here; docs/gpu-budget.md has the arithmetic")
        return 2
    peak = product_peak()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: products reach {peak / 1e12:.0f} TFLOP/s")
    profiles = {}
    for case in chosen.cases:
        size, batch, how = case.split(":")
        cfg = model_config(f"marlin_vit_{size}")
        try:
            with sdpa_kernel(ATTENTION, set_priority=True) if "cudnn" in how else nullcontext():
                profiles[case] = measure(cfg, int(batch), how, chosen.steps, peak, chosen.precision)
        except torch.OutOfMemoryError:
            print(f"{case}: out of memory")
        gc.collect()
        torch.cuda.empty_cache()
    if chosen.profile:
        chosen.profile.write_text(json.dumps(profiles, indent=1), encoding="utf-8")
    return 0


def measure(cfg: ModelConfig, batch: int, how: str, steps: int, peak: float, precision: str) -> dict[str, float]:
    """Time one case, print its lines, and return the seconds of each kernel in one step."""
    started = time.perf_counter()
    step = make_step(cfg, batch, how, precision)
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    start_s = time.perf_counter() - started
    torch.cuda.reset_peak_memory_stats()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(steps):
        step()
    end.record()
    torch.cuda.synchronize()
    seconds = begin.elapsed_time(end) / 1e3 / steps
    visible = visible_tokens(cfg.grid, RATIO)
    predicted = target_tokens(cfg.tokens - visible, 0.5 if "half" in how else 0.0)
    rate = batch * step_flops(cfg, visible, predicted) / seconds
    print(
        f"{cfg.name}, batch {batch}, {how}: {1e3 * seconds:.1f} ms, {batch / seconds:.0f} clips/s, "
        f"{rate / 1e12:.0f} TFLOP/s, MFU {rate / DATA_SHEET_PEAK:.1%} (aim {MFU_AIM:.0%}), {rate / peak:.1%} of the "
        f"products' peak; {torch.cuda.max_memory_allocated() / 1e9:.1f} GB; {start_s:.0f} s to start",
        flush=True,
    )
    kernels = profile(step)
    busy = sum(kernels.values())
    kinds = by_kind(kernels)
    shares = ", ".join(f"{kind} {1e3 * took:.1f}" for kind, took in sorted(kinds.items(), key=lambda x: -x[1]))
    print(f"    ms of a step: {shares}; idle {1e3 * max(0.0, seconds - busy):.1f}", flush=True)
    return {"step": seconds, **dict(sorted(kernels.items(), key=lambda item: -item[1])[:60])}


def make_step(cfg: ModelConfig, batch: int, how: str, precision: str) -> Callable[[], object]:
    """Return a step on a batch of random clips, masks by chance."""
    torch.manual_seed(1)
    side = cfg.image_size
    clip_BTHWC = torch.randint(0, 256, (batch, cfg.frames, side, side, 3), dtype=torch.uint8, device="cuda")
    is_masked_BL = make_mask("random", torch.zeros(batch, *cfg.grid, dtype=torch.int32), cfg.grid, RATIO,
                             torch.arange(batch))  # fmt: skip
    if how in ("reference", "autocast"):
        from benchmarks.reference import ReferenceStep

        torch.manual_seed(0)
        theirs = ReferenceStep(cfg, device="cuda")
        clip_BCTHW = clip_BTHWC.permute(0, 4, 1, 2, 3).float().div(255).contiguous()
        mask = is_masked_BL.cuda()

        def reference() -> None:
            with torch.autocast("cuda", torch.bfloat16, enabled=how == "autocast"):
                theirs(clip_BCTHW, mask)

        return reference
    engines = one_rank_engines(cfg, batch, precision=precision, zero_stage=1, compiled="compiled" in how)
    is_target_BL = decoder_targets(is_masked_BL, cfg.grid, 0.5, torch.arange(batch)) if "half" in how else None
    made = ClipBatch(clip_BTHWC, is_masked_BL, ("",) * batch, is_target_BL).to(engines.device)
    return lambda: pretrain_step(engines, [made], AdversarialConfig())


def product_peak(side: int = 8192) -> float:
    """Return FLOP/s of a large bf16 product of random matrices."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        torch.mm(a, b)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return 2 * side**3 / sorted(times[5:])[len(times[5:]) // 2]


def profile(step: Callable[[], object]) -> dict[str, float]:
    """Return the seconds that each kernel takes in one step."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        step()
        torch.cuda.synchronize()
    return {
        event.key: event.self_device_time_total / 1e6
        for event in found.key_averages()
        if event.self_device_time_total > 0
    }


def by_kind(kernels: dict[str, float]) -> dict[str, float]:
    """Return the seconds of each kind of work."""
    kinds: dict[str, float] = defaultdict(float)
    for name, seconds in kernels.items():
        small = name.lower()
        kind = next((kind for kind, words in KINDS if any(word in small for word in words)), "other")
        kinds[kind] += seconds
    return dict(kinds)


if __name__ == "__main__":
    sys.exit(main())

"""A training step in fp32 against the machine and the reference's order of work: ``python -m benchmarks.train_step``.

Ours is ``pretrain_step`` on its two DeepSpeed engines, one rank, uint8 clips in; theirs is marlin-pytorch's modules in
the released order. Same mathematics, threads and dtype. Fails (exit 1) below a floor: 70 % of the matrix-product peak
measured in the same run (90 is the aim), and memory that a step takes above 0.6 of the reference's.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.machine import Clock, Measured, describe, interleaved
from benchmarks.reference import ReferenceStep
from model.data.batch import ClipBatch
from model.masking import decoder_targets, make_mask, target_tokens, visible_tokens
from model.nets.config import ModelConfig, model_config
from model.nets.factory import build_discriminator, build_mae
from model.nets.flops import step_flops
from model.train.engines import Engines, build_engines, init_distributed
from model.train.step import pretrain_step
from model.train_config import AdversarialConfig, OptimConfig, Precision

PEAK_FLOOR, PEAK_AIM, MEMORY_CEILING = 0.7, 0.9, 0.6
CASES = {"marlin_vit_base": 2, "marlin_vit_small": 4}
"""Size → clips of a batch."""
RATIO, DECODER_RATIO = 0.9, 0.5


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--size", choices=tuple(CASES), help="one size alone")
    parser.add_argument(
        "--part", choices=("all", "speed", "ours", "memory"), default="all", help="'ours': no reference"
    )
    parser.add_argument("--memory-of", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    sizes = [chosen.size] if chosen.size else list(CASES)
    if chosen.memory_of:
        return _memory_of(chosen.memory_of, model_config(sizes[0]))
    print(describe(chosen.clock))
    failed = []
    for size in sizes:
        if chosen.part != "memory":
            failed += _speed(model_config(size), chosen.rounds, chosen.clock, alone=chosen.part == "ours")
        if chosen.part in ("all", "memory"):
            failed += _memory(size, chosen.threads)
    for sentence in failed:
        print(f"BELOW THE FLOOR: {sentence}")
    return 1 if failed else 0


def _speed(cfg: ModelConfig, rounds: int, clock: Clock, *, alone: bool) -> list[str]:
    works = {"ours": our_step(cfg), "half": our_step(cfg, DECODER_RATIO)}
    measured = interleaved(works | ({} if alone else {"theirs": _their_step(cfg)}), rounds, clock)
    flops, half_flops = _flops(cfg, 0.0), _flops(cfg, DECODER_RATIO)
    share = flops / measured.seconds["ours"] / measured.peak
    print(_line(cfg, measured, flops, share))
    print(
        f"{cfg.name}, decoder masking {DECODER_RATIO}: {measured.seconds['half']:.2f} s, "
        f"{measured.seconds['half'] / measured.seconds['ours']:.2f} of the time for {half_flops / flops:.2f} of the "
        "arithmetic"
    )
    return [] if share >= PEAK_FLOOR else [f"{cfg.name}: {share:.0%} of the peak, {PEAK_FLOOR:.0%} is the least"]


def _line(cfg: ModelConfig, measured: Measured, flops: int, share: float) -> str:
    ours = measured.seconds["ours"]
    text = (
        f"{cfg.name}, batch {CASES[cfg.name]}: {flops / 1e9:.0f} GFLOP in {ours:.2f} s = {flops / ours / 1e9:.1f} "
        f"GFLOP/s, {share:.1%} of the peak of {measured.peak / 1e9:.1f} (floor {PEAK_FLOOR:.0%}, aim {PEAK_AIM:.0%})"
    )
    theirs = measured.seconds.get("theirs")
    return text if theirs is None else f"{text}; reference {theirs:.2f} s: RATIO {theirs / ours:.2f}"


def _memory(size: str, threads: int) -> list[str]:
    """Memory that a step adds to what is held between steps, each side in a process of its own."""
    added, whole = {}, {}
    for side in ("ours", "theirs"):
        command = [sys.executable, "-m", "benchmarks.train_step", "--memory-of", side, "--size", size]
        done = subprocess.run(
            [*command, "--threads", str(threads)], check=True, stdout=subprocess.PIPE, text=True, timeout=1800
        )
        imports, rest, whole[side] = (int(word) for word in done.stdout.split()[-3:])
        added[side] = whole[side] - rest
        print(
            f"{size}, {side}: a step adds {added[side] / 1e6:.0f} MB to {rest / 1e6:.0f} MB of weights, moments and "
            f"code (code alone {imports / 1e6:.0f} MB)"
        )
    share = added["ours"] / added["theirs"]
    print(
        f"{size}: {share:.2f} of the memory that the reference's step takes (ceiling {MEMORY_CEILING}); "
        f"{whole['ours'] / whole['theirs']:.2f} of the whole process's"
    )
    return (
        [] if share <= MEMORY_CEILING else [f"{size}: {share:.2f} of the reference's memory, at most {MEMORY_CEILING}"]
    )


def _memory_of(side: str, cfg: ModelConfig) -> int:
    imports = _kilobytes("VmRSS")
    step = our_step(cfg) if side == "ours" else _their_step(cfg)
    step()  # makes the optimisers' moments
    rest = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins anew
    step()
    print(1024 * imports, 1024 * rest, 1024 * _kilobytes("VmHWM"))
    return 0


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def our_step(cfg: ModelConfig, decoder_ratio: float = 0.0) -> Callable[[], object]:
    """Return our training step on a batch of its own."""
    engines = one_rank_engines(cfg, CASES[cfg.name])
    clip_BTHWC, is_masked_BL = _batch(cfg)
    is_target_BL = decoder_targets(is_masked_BL, cfg.grid, decoder_ratio, torch.arange(len(clip_BTHWC)))
    batch = ClipBatch(clip_BTHWC, is_masked_BL, ("",) * len(clip_BTHWC), is_target_BL)
    return lambda: pretrain_step(engines, [batch], AdversarialConfig())


def one_rank_engines(
    cfg: ModelConfig, batch: int, *, precision: Precision = "fp32", zero_stage: int = 0, compiled: bool = False
) -> Engines:
    """Return both engines as a run of one rank has them; stage 0, since one rank has nobody to share states with."""
    if not torch.distributed.is_initialized():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
            "LOCAL_WORLD_SIZE": "1",
        }  # fmt: skip
    device = init_distributed()
    torch.manual_seed(0)
    return build_engines(
        build_mae(cfg), build_discriminator(cfg), device=device, optim=OptimConfig(), micro_batch=batch,
        accumulation=1, precision=precision, zero_stage=zero_stage, compiled=compiled,
    )  # fmt: skip


def _their_step(cfg: ModelConfig) -> Callable[[], object]:
    torch.manual_seed(0)
    step = ReferenceStep(cfg)
    clip_BTHWC, is_masked_BL = _batch(cfg)
    clip_BCTHW = clip_BTHWC.permute(0, 4, 1, 2, 3).float().div(255).contiguous()
    return lambda: step(clip_BCTHW, is_masked_BL)


def _batch(cfg: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    batch, side = CASES[cfg.name], cfg.image_size
    clip_BTHWC = torch.randint(0, 256, (batch, cfg.frames, side, side, 3), dtype=torch.uint8)
    no_face = torch.zeros(batch, *cfg.grid, dtype=torch.int32)
    return clip_BTHWC, make_mask("random", no_face, cfg.grid, RATIO, torch.arange(batch))


def _flops(cfg: ModelConfig, decoder_ratio: float) -> int:
    visible = visible_tokens(cfg.grid, RATIO)
    return CASES[cfg.name] * step_flops(cfg, visible, target_tokens(cfg.tokens - visible, decoder_ratio))


if __name__ == "__main__":
    sys.exit(main())

"""Token features of one clip in fp32 against the machine and marlin-pytorch: ``python -m benchmarks.features``.

Same weights, threads and dtype; the clip comes as floats, as theirs must. Fails (exit 1) below 70 % of the
matrix-product peak measured in the same run (90 is the aim), or where the features differ by more than 1e-5.
"""

from __future__ import annotations

import argparse
import os
import sys

import torch

from benchmarks.machine import describe, interleaved
from benchmarks.reference import reference_network
from model.nets.config import model_config
from model.nets.factory import build_encoder
from model.nets.flops import encoder_flops

PEAK_FLOOR, PEAK_AIM, TOLERANCE = 0.7, 0.9, 1e-5
PART = "encoder."


@torch.inference_mode()
def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--size", default="marlin_vit_base")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(describe(chosen.clock))
    cfg = model_config(chosen.size)
    torch.manual_seed(0)
    theirs = reference_network(cfg.name).eval()
    ours = build_encoder(cfg).eval()
    ours.load_state_dict(
        {name.removeprefix(PART): value for name, value in theirs.state_dict().items() if name.startswith(PART)}
    )
    clip_BCTHW = torch.rand(1, 3, cfg.frames, cfg.image_size, cfg.image_size)
    off = float((ours(clip_BCTHW) - theirs.extract_features(clip_BCTHW)).abs().max())
    works = {"ours": lambda: ours(clip_BCTHW), "theirs": lambda: theirs.extract_features(clip_BCTHW)}
    seconds, peak = interleaved(works, chosen.rounds, chosen.clock)
    flops = encoder_flops(cfg, cfg.tokens)
    share = flops / seconds["ours"] / peak
    print(
        f"{cfg.name}, one clip: {flops / 1e9:.0f} GFLOP in {seconds['ours']:.2f} s = "
        f"{flops / seconds['ours'] / 1e9:.1f} GFLOP/s, {share:.1%} of the peak of {peak / 1e9:.1f} "
        f"(floor {PEAK_FLOOR:.0%}, aim {PEAK_AIM:.0%}); marlin-pytorch {seconds['theirs']:.2f} s: "
        f"RATIO {seconds['theirs'] / seconds['ours']:.2f}; largest difference {off:.1e}"
    )
    failed = [] if share >= PEAK_FLOOR else [f"{share:.0%} of the peak, {PEAK_FLOOR:.0%} is the least"]
    failed += [] if off <= TOLERANCE else [f"features differ by {off:.1e}, {TOLERANCE:.0e} is the most"]
    for sentence in failed:
        print(f"BELOW THE FLOOR: {sentence}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The learning rate: a pure function of clips seen, so that nothing about it needs to be saved."""

from __future__ import annotations

import math

from model.train_config import OptimConfig

REFERENCE_BATCH = 256
"""Clips that base rates refer to, as in the released recipe."""


def learning_rate(clips_seen: int, global_batch: int, cfg: OptimConfig) -> float:
    """Return the learning rate for the step that begins after ``clips_seen`` clips.

    Linear from 0 over ``warmup_clips``, then a cosine from the peak to the minimum at ``total_clips``, where it stays.
    The released recipe steps its schedule once an epoch; this one moves with every step. A run with warm-up takes the
    rate at the *end* of the step's clips while it rises, so that its first step is not lost to a rate of 0.
    """
    scale = global_batch / REFERENCE_BATCH
    peak, floor = cfg.base_lr * scale, cfg.min_lr * scale
    if clips_seen < cfg.warmup_clips:
        return peak * min((clips_seen + global_batch) / cfg.warmup_clips, 1.0)
    done = min((clips_seen - cfg.warmup_clips) / (cfg.total_clips - cfg.warmup_clips), 1.0)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))

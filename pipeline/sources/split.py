"""Into which split a video falls: a pure function of the video, so that no night moves it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from fnmatch import fnmatchcase

from pipeline.config import SplitConfig
from pipeline.rows import SourceVideo


def assign_split(video: SourceVideo, cfg: SplitConfig, seed: int) -> SourceVideo:
    """Return the video with its split: its official one, else the first glob that matches its name, else by hash.

    The hash is over the identity where there is one (all videos of a person fall together), else over the digest.
    """
    return replace(video, split=video.split or _by_name(video.name, cfg) or _by_hash(video, cfg, seed))


def _by_name(name: str, cfg: SplitConfig) -> str | None:
    return next((split for glob, split in cfg.assign.items() if fnmatchcase(name, glob)), None)


def _by_hash(video: SourceVideo, cfg: SplitConfig, seed: int) -> str:
    draw = hashlib.sha256(f"{seed}:{video.identity or video.digest}".encode()).digest()
    return "val" if int.from_bytes(draw[:8]) < cfg.val_fraction * 2**64 else "train"

"""Where the run folders of flows lie."""

from __future__ import annotations

from pathlib import Path

from infra.config import BaseConfig, config_digest


def settled_folder(runs: str, kind: str, cfg: BaseConfig) -> Path:
    """Return the one folder of the run with these settings, in which an interrupted one goes on."""
    return Path(runs) / f"{kind}-{config_digest(cfg)[:12]}"


def encoder_folder(runs: str) -> Path:
    """Return the folder of weights that were fetched from a registry, made if need be."""
    folder = Path(runs) / "encoders"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

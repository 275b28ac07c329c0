"""Settings of exporting weights."""

from __future__ import annotations

from typing import Literal

from infra.config import BaseConfig


class ExportConfig(BaseConfig):
    """Settings of ``marlin export OUT``."""

    weights: str = ""
    """Weight file, or run folder of ``marlin pretrain``."""
    to: Literal["marlin-pytorch", "huggingface"] = "marlin-pytorch"
    """``marlin-pytorch`` writes a file that the package of that name loads, ``huggingface`` a folder for transformers'
    VideoMAE classes."""
    out: str = ""
    """File (marlin-pytorch) or folder (huggingface) to write."""

"""Settings of drawing reconstructions."""

from __future__ import annotations

from pydantic import Field

from infra.config import BaseConfig
from model.train_config import MaskConfig
from pipeline.config import EmbeddedFaces, Faces


class ReconstructConfig(BaseConfig):
    """Settings of ``marlin reconstruct VIDEO``."""

    video: str = ""
    """Any video; a face is looked for."""
    weights: str = ""
    """Weight file with a decoder, or run folder of ``marlin pretrain``."""
    out: str = "reconstruction.png"
    """The PNG to write."""
    mask: MaskConfig = MaskConfig()
    """Which tokens are hidden."""
    clips: int = Field(default=3, ge=1, le=64)
    """Windows drawn, at most; they are taken evenly over the video."""
    faces: Faces = EmbeddedFaces()
    """Which detector and region parser to use."""
    seed: int = Field(default=0, ge=0)
    """Seed of the masks."""

"""Settings of feature extraction."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from infra.config import BaseConfig
from pipeline.config import EmbeddedFaces, Faces, LimitConfig, TrackConfig


class ExtractConfig(BaseConfig):
    """Settings of ``marlin extract VIDEO…``."""

    videos: tuple[str, ...] = ()
    """Video files; no folders."""
    weights: str = ""
    """Weight file or run folder; the size of the encoder is read from it."""
    out: str = "features"
    """Folder that receives ``<stem>.npy`` and ``<stem>.json`` of each video."""
    crop: Literal["auto", "face", "none"] = "auto"
    """``face`` follows every face; ``none`` takes the whole frame, padded to a square; ``auto`` takes ``none`` for a
    video that is a face crop already (224×224, or a square that one face fills) and ``face`` for all others."""
    keep_tail: bool = True
    """Keep a last window that ends with the last frame; False drops what is left over, as the reference does."""
    batch: int = Field(default=4, ge=1)
    """Windows a forward pass."""
    limits: LimitConfig = LimitConfig()
    """What one video may cost, as in ingestion; one that costs more is rejected."""
    faces: Faces = EmbeddedFaces()
    """Which detector follows the faces."""
    track: TrackConfig = TrackConfig()
    """Linking, smoothing and filtering of tracks."""
    device: str = "auto"
    """``auto`` takes a GPU where there is one; else ``cpu`` or ``cuda:N``."""

"""Settings of the commands that look into a dataset."""

from __future__ import annotations

from pydantic import Field

from infra.config import BaseConfig


class DatasetConfig(BaseConfig):
    """Settings of ``marlin dataset show`` and ``verify``."""

    dataset: str = ""
    """Folder or s3://bucket/prefix of the dataset."""
    version: int | None = Field(default=None, ge=1)
    """Dataset version; the newest by default."""


class ReportConfig(DatasetConfig):
    """Settings of ``marlin dataset report``."""

    out: str = "report.html"
    """The page to write."""
    max_faces: int = Field(default=24, ge=0, le=1000)
    """Tracks on the contact sheet, at most."""

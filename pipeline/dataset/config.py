"""Settings of the commands on a dataset."""

from __future__ import annotations

from pydantic import Field

from infra.config import BaseConfig


class StoreConfig(BaseConfig):
    """Settings of ``marlin dataset versions``."""

    dataset: str = ""
    """Folder or s3://bucket/prefix of the dataset."""


class DatasetConfig(StoreConfig):
    """Settings of ``marlin dataset show`` and ``verify``."""

    version: int | None = Field(default=None, ge=1)
    """Dataset version; the newest by default."""


class DiffConfig(StoreConfig):
    """Settings of ``marlin dataset diff``."""

    before: int | None = Field(default=None, ge=1)
    """The version that is compared with."""
    after: int | None = Field(default=None, ge=1)
    """The version that is looked at."""
    shown: int = Field(default=20, ge=0)
    """Clips and videos that are named of each kind, at most."""


class CompactConfig(StoreConfig):
    """Settings of ``marlin dataset compact``."""

    shard_mb: int = Field(default=256, ge=1)
    """Target size of a shard in MB (10^6 bytes)."""


class VacuumConfig(StoreConfig):
    """Settings of ``marlin dataset vacuum``."""

    grace_hours: float = Field(default=24.0, ge=0)
    """Hours that an object which no version lists stays: a reader or writer elsewhere may be about to need it."""
    keep: int | None = Field(default=None, ge=1)
    """Newest versions that stay readable; all by default."""


class RemoveConfig(StoreConfig):
    """Settings of ``marlin dataset remove``."""

    videos: tuple[str, ...] = ()
    """Names in the dataset, paths or addresses they were taken from, local files, or 8 or more digits of a sha256."""
    runs: tuple[str, ...] = ("runs", "work/*")
    """Folders (or patterns of folders) below which runs, features and pictures lie."""


class ReportConfig(DatasetConfig):
    """Settings of ``marlin dataset report``."""

    out: str = "report.html"
    """The page to write."""
    max_faces: int = Field(default=24, ge=0, le=1000)
    """Tracks on the contact sheet, at most."""

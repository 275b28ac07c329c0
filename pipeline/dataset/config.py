"""Settings of the commands on a dataset."""

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


class VersionsConfig(BaseConfig):
    """Settings of ``marlin dataset versions``."""

    dataset: str = ""
    """Folder or s3://bucket/prefix of the dataset."""


class DiffConfig(BaseConfig):
    """Settings of ``marlin dataset diff``."""

    dataset: str = ""
    """Folder or s3://bucket/prefix of the dataset."""
    before: int | None = Field(default=None, ge=1)
    """The version that is compared with; the parent of B by default."""
    after: int | None = Field(default=None, ge=1)
    """The version that is compared; the newest by default."""


class CompactConfig(BaseConfig):
    """Settings of ``marlin dataset compact``."""

    dataset: str = ""
    """Folder or s3://bucket/prefix of the dataset."""
    shard_mb: int = Field(default=256, ge=1)
    """Target size of a shard in MB (10^6 bytes); shards of less than half of it are merged."""


class VacuumConfig(BaseConfig):
    """Settings of ``marlin dataset vacuum``."""

    dataset: str = ""
    """Folder or s3://bucket/prefix of the dataset."""
    grace_hours: float = Field(default=24.0, ge=0)
    """Age, in hours, below which nothing is deleted: another writer of a bucket may be about to list it."""
    keep: int | None = Field(default=None, ge=1)
    """Newest versions that stay readable, older ones are dropped first; all stay by default."""


class RemoveConfig(BaseConfig):
    """Settings of ``marlin dataset remove``."""

    dataset: str = ""
    """Folder or s3://bucket/prefix of the dataset."""
    videos: tuple[str, ...] = ()
    """Videos: a name in the dataset, the path it was taken from, a file with its bytes, or 8 digits of its digest."""
    runs: tuple[str, ...] = ("runs", "work/*")
    """Folders (globs) below which runs, features and pictures made of the dataset are looked for."""

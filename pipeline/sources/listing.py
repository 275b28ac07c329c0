"""What a person may name as a source, and the one thing that all kinds can do: list videos without reading them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Protocol

from infra.errors import ConfigError
from pipeline.config import IngestConfig
from pipeline.places import is_inside, named_path
from pipeline.rows import ListedVideo
from pipeline.sources.addresses import is_web, shown_place, youtube_id
from pipeline.sources.folder import FileSource, FolderSource, begins_as_video
from pipeline.sources.layouts import Layouts
from pipeline.sources.manifest import MANIFEST_ENDINGS, ManifestSource
from pipeline.sources.s3 import S3Source
from pipeline.sources.web import WebSource
from pipeline.sources.youtube import YoutubeSource

logger = logging.getLogger(__name__)


class Source(Protocol):
    """One source. Listing it twice gives the same videos in the same order as long as nothing changes there."""

    def list(self) -> Iterator[ListedVideo]:
        """Yield its videos; ConfigError when it is not there or cannot be listed."""


def open_source(text: str, layouts: Layouts) -> Source:
    """Return the source that ``text`` names; nothing is contacted yet.

    ``s3://bucket/prefix``, ``youtube:ID`` or an address of YouTube, any other ``http(s)://`` address (one video), a
    folder, a manifest (``.txt``, ``.csv``, ``.jsonl``, ``.parquet``, unless it begins as a video does), a file. Folders
    and files may be ``file:`` URIs; however they are spelled, they are one place (``named_path``). ``layouts``
    recognises known datasets.

    Raises:
        ConfigError: there is no such thing.
    """
    if text.startswith("s3://"):
        return S3Source(text, layouts)
    video = youtube_id(text)
    if video is not None:
        return YoutubeSource(video)
    if is_web(text):
        return WebSource(text)
    path = Path(named_path(text))
    if path.is_dir():
        return FolderSource(path, layouts)
    if not path.exists():
        known = "a folder of videos, a video file, a manifest, s3://bucket/prefix, an http(s):// address or youtube:ID"
        raise ConfigError(f"source {shown_place(text)} does not exist; give {known}")
    if not path.is_file():  # a pipe or device would block whoever opens it
        raise ConfigError(f"source {shown_place(text)} is neither a folder nor a file; give one of them")
    if path.suffix.lower() in MANIFEST_ENDINGS and not begins_as_video(path):
        return ManifestSource(path)
    return FileSource(path, layouts)


def list_sources(
    cfg: IngestConfig, *, warn: bool = False, counts: MutableMapping[str, int] | None = None
) -> Iterator[ListedVideo]:
    """Yield the videos of all sources, source by source; errors as ``check_sources`` and ``Source.list``.

    With ``warn``, labels whose videos are not there are counted in the log at the end. ``counts`` receives the number
    of videos of each source, by its text in ``cfg.sources``.
    """
    counts = {} if counts is None else counts
    layouts = Layouts(cfg.split, labelled_boxes=cfg.faces.labelled_boxes)
    for text, source in zip(cfg.sources, _open_sources(cfg, layouts), strict=True):
        counts.setdefault(text, 0)
        for video in source.list():
            counts[text] += 1
            yield video
    for sentence in layouts.lacking() if warn else ():
        logger.warning("%s", sentence)


def check_sources(cfg: IngestConfig) -> None:
    """Say what is wrong with the sources before anything is listed.

    Raises:
        ConfigError: no source, one that does not exist, a dataset that lies inside one, or a list of an official split
            that is damaged.
    """
    _open_sources(cfg, Layouts(cfg.split))


def _open_sources(cfg: IngestConfig, layouts: Layouts) -> list[Source]:
    if not cfg.sources:
        raise ConfigError("no source is given; name folders or video files: marlin ingest SOURCE... --out DATASET")
    sources = [open_source(text, layouts) for text in cfg.sources]
    for text, source in zip(cfg.sources, sources, strict=True):
        in_bucket = text.startswith("s3://") and f"{cfg.out}/".startswith(f"{text.rstrip('/')}/")
        if in_bucket or (isinstance(source, FolderSource) and "://" not in cfg.out and is_inside(cfg.out, source.root)):
            raise ConfigError(
                f"the dataset {cfg.out} lies inside its source {shown_place(text)}; put it elsewhere (out=…)"
            )
    return sources

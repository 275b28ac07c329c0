"""CelebV-HQ: attributes, and which part of a YouTube video each clip is, in ``celebvhq_info.json``."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import ConfigError
from pipeline.config import SplitLists
from pipeline.places import printable
from pipeline.rows import Cut, LabelValue
from pipeline.sources.layouts.described import Described, LabelsUsed, NearestFile, read_label_file
from pipeline.sources.layouts.official import official_split

INFO_FILE = "celebvhq_info.json"
MAX_INFO_BYTES = 256 << 20
"""The real file has 35,666 clips in about 40 MB."""
SHARES = (("train", 0.8), ("val", 0.9))
"""Cumulative shares of the split that is drawn where no official one is given; the rest is the test part."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Duration(_Part):
    start_sec: float = Field(ge=0, allow_inf_nan=False)
    end_sec: float = Field(allow_inf_nan=False)


class _Box(_Part):
    top: float = Field(allow_inf_nan=False)
    bottom: float = Field(allow_inf_nan=False)
    left: float = Field(allow_inf_nan=False)
    right: float = Field(allow_inf_nan=False)


class _Attributes(_Part):
    appearance: tuple[Literal[0, 1], ...]
    action: tuple[Literal[0, 1], ...]
    emotion: dict[str, Any] = {}


class _Clip(_Part):
    ytb_id: str = Field(min_length=1)
    duration: _Duration
    bbox: _Box
    attributes: _Attributes

    @model_validator(mode="after")
    def _holds_something(self) -> _Clip:
        if self.duration.end_sec <= self.duration.start_sec:
            raise ValueError(f"duration ends at {self.duration.end_sec} s, before it begins")
        x0, y0, x1, y1 = self.box
        if x0 >= x1 or y0 >= y1:
            raise ValueError("bbox holds nothing of the frame")
        return self

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom inside the frame."""
        sides = (self.bbox.left, self.bbox.top, self.bbox.right, self.bbox.bottom)
        left, top, right, bottom = (min(1.0, max(0.0, side)) for side in sides)
        return left, top, right, bottom


class _Mappings(_Part):
    appearance_mapping: tuple[str, ...]
    action_mapping: tuple[str, ...]


class _Info(_Part):
    meta_info: _Mappings
    clips: dict[str, _Clip]

    @model_validator(mode="after")
    def _fits_its_names(self) -> _Info:
        widths = len(self.meta_info.appearance_mapping), len(self.meta_info.action_mapping)
        for name, clip in self.clips.items():
            if (len(clip.attributes.appearance), len(clip.attributes.action)) != widths:
                raise ValueError(f"clip {name} has not as many attributes as meta_info names")
        return self


@dataclass(frozen=True, slots=True)
class _Index:
    """The clips of one info file, and which of them are parts of a YouTube video."""

    info: _Info
    parts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


class CelebVHQ:
    """A file named by a clip's id is that clip, cut and cropped; one named by a ``ytb_id`` holds the clips cut from it.

    Labels: ``appearance.<name>`` and ``action.<name>`` (0 or 1) and ``emotion``. Identity: the YouTube video. Split:
    the official one by clip id, else 80/10/10, drawn by YouTube video so that no face is in two parts.
    """

    def __init__(self, lists: SplitLists | None = None) -> None:
        """Read the split lists: clip ids, with or without ``.mp4``."""
        self._official = official_split(lists, key=lambda name: name.removesuffix(".mp4")) if lists else None
        self._info_file = NearestFile(INFO_FILE)
        self._indices: dict[str, _Index] = {}
        self.used = LabelsUsed()

    def describe(self, path: str, root: str) -> list[Described] | None:
        """Return the clips of a file; None where no info file is near, or it does not name the file.

        Raises:
            ConfigError: the info file is damaged.
        """
        info_path = self._info_file(os.path.dirname(path), root)
        if info_path is None:
            return None
        if info_path not in self._indices:
            self._indices[info_path] = _read_index(info_path)
            self.used.read(info_path, len(self._indices[info_path].info.clips))
        index = self._indices[info_path]
        stem = os.path.splitext(os.path.basename(path))[0]
        cut = stem not in index.info.clips
        names = index.parts.get(stem, []) if cut else [stem]
        for name in names:
            self.used.found(info_path, name)
        return [self._describe(index.info, name, cut=cut) for name in names] or None

    def _describe(self, info: _Info, name: str, *, cut: bool) -> Described:
        clip = info.clips[name]
        names = info.meta_info
        labels: dict[str, LabelValue] = {
            **{
                f"appearance.{key}": value
                for key, value in zip(names.appearance_mapping, clip.attributes.appearance, strict=True)
            },
            **{f"action.{key}": value for key, value in zip(names.action_mapping, clip.attributes.action, strict=True)},
        }
        emotion = _emotion(clip.attributes.emotion)
        if emotion:
            labels["emotion"] = emotion
        split = _drawn_split(clip.ytb_id) if self._official is None else self._official.get(name)
        part = Cut(clip.duration.start_sec, clip.duration.end_sec, clip.box) if cut else None
        return Described(labels, f"celebvhq-{clip.ytb_id}", split, part, name if cut else "")


def _read_index(path: str) -> _Index:
    try:
        index = _Index(_Info.model_validate_json(read_label_file(path, MAX_INFO_BYTES)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:120]
        raise ConfigError(
            f"label file {printable(path)} is damaged ({place + ': ' if place else ''}{first['msg']}); fetch it again, "
            "or move it away to go without labels"
        ) from error
    for name, clip in index.info.clips.items():
        index.parts[clip.ytb_id].append(name)
    return index


def _emotion(emotion: dict[str, Any]) -> str:
    """Return the emotion, or the emotions in the order in which they come, joined by ``;``; empty without any."""
    labels = emotion.get("labels", "")
    named = labels if isinstance(labels, list) else [{"emotion": labels}]
    found = [str(part.get("emotion", "")) for part in named if isinstance(part, dict)]
    return ";".join(dict.fromkeys(name for name in found if name))[:200]


def _drawn_split(ytb_id: str) -> str:
    draw = int.from_bytes(hashlib.sha256(f"celebvhq:{ytb_id}".encode()).digest()[:8]) / 2**64
    return next((split for split, share in SHARES if draw < share), "test")

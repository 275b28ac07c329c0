"""CMU-MOSEI: ``Segmented/<video id>_<n>.mp4``; sentiment and six emotions in an HDF5 or csv file above."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import re

from infra.errors import ConfigError
from infra.sandbox import Sandbox, SandboxError
from pipeline.config import SplitLists
from pipeline.places import printable
from pipeline.rows import LabelValue
from pipeline.sources.layouts.described import Described, LabelsUsed, NearestFile, read_label_file
from pipeline.sources.layouts.mosei_hdf5 import COLUMNS, DAMAGE, MAX_LABEL_BYTES, Segments
from pipeline.sources.layouts.official import official_split

logger = logging.getLogger(__name__)

HDF5_DEADLINE_S = 300.0
HDF5_MEMORY_BYTES = 2 << 30
_PATH = re.compile(r"/Segmented/(?P<video>[^/]+)_(?P<segment>\d{1,9})\.mp4$")
_LABEL_FILES = ("CMU_MOSEI_Labels.csd", "CMU_MOSEI_Labels.csv")


class Mosei:
    """Labels are seven numbers; segment n of a video is the n-th row of its labels. Identity: the YouTube video."""

    def __init__(self, lists: SplitLists | None = None) -> None:
        """Read the folds: lists of video ids."""
        self._split_of = official_split(lists)
        self._label_file = NearestFile(*_LABEL_FILES)
        self._segments: dict[str, Segments] = {}
        self.used = LabelsUsed()

    def describe(self, path: str, root: str) -> list[Described] | None:
        """Return what is known of a segment; None outside the layout or where no label file is near.

        Raises:
            ConfigError: the label file is damaged.
        """
        match = _PATH.search(path)
        label_path = self._label_file(os.path.dirname(path), root) if match else None
        if match is None or label_path is None:
            return None
        if label_path not in self._segments:
            self._segments[label_path] = _read_labels(label_path)
            self.used.read(label_path, len(self._segments[label_path]))
        values = self._segments[label_path].get((match["video"], int(match["segment"])))
        if values is not None:
            self.used.found(label_path, f"{match['video']}_{int(match['segment'])}")
        labels: dict[str, LabelValue] = dict(zip(COLUMNS, values, strict=True)) if values is not None else {}
        return [Described(labels, f"mosei-{match['video']}", self._split_of.get(match["video"]))]


def _read_labels(path: str) -> Segments:
    try:
        found = _from_csv(read_label_file(path, MAX_LABEL_BYTES)) if path.endswith(".csv") else _from_hdf5(path)
    except (*DAMAGE, csv.Error, SandboxError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"label file {printable(path)} is damaged ({reason}); fetch it again, or move it away to go without labels"
        ) from error
    whole = {key: values for key, values in found.items() if all(map(math.isfinite, values))}
    if len(whole) < len(found):
        logger.warning("%s: %d segments have no finite labels", printable(path), len(found) - len(whole))
    return whole


def _from_hdf5(path: str) -> Segments:
    with Sandbox("pipeline.sources.layouts.mosei_hdf5:reader", memory_limit_bytes=HDF5_MEMORY_BYTES) as child:
        segments: Segments = child.call(path, deadline_s=HDF5_DEADLINE_S)
    return segments


def _from_csv(data: bytes) -> Segments:
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    missing = {"video_id", "clip_id", *COLUMNS} - set(rows.fieldnames or ())
    if missing:
        raise ValueError(f"it has no column {', '.join(sorted(missing))}")
    return {(row["video_id"], int(row["clip_id"])): [float(row[name]) for name in COLUMNS] for row in rows}

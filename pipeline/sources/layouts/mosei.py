"""CMU-MOSEI: ``Segmented/<video id>_<n>.mp4``; sentiment and six emotions in an HDF5 or csv file above."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import re
from collections.abc import Sequence

import h5py
import numpy as np

from infra.errors import ConfigError
from pipeline.config import SplitLists
from pipeline.places import printable
from pipeline.rows import LabelValue
from pipeline.sources.layouts.described import Described, NearestFile, read_label_file
from pipeline.sources.layouts.official import official_split

logger = logging.getLogger(__name__)

COLUMNS = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
"""Order of the seven columns: sentiment in [-3, 3], then intensities in [0, 3]."""
MAX_LABEL_BYTES = 256 << 20
"""The real file has 23,000 segments in 10 MB."""
MAX_SEGMENTS = 100_000
_PATH = re.compile(r"/Segmented/(?P<video>[^/]+)_(?P<segment>\d{1,9})\.mp4$")
_LABELS = {"CMU_MOSEI_Labels.csd": "hdf5", "CMU_MOSEI_Labels.csv": "csv"}
Segments = dict[tuple[str, int], Sequence[float]]


class Mosei:
    """Labels are seven numbers; segment n of a video is the n-th row of its labels. Identity: the YouTube video."""

    def __init__(self, lists: SplitLists | None = None) -> None:
        """Read the folds: lists of video ids."""
        self._split_of = official_split(lists)
        self._label_file = NearestFile(*_LABELS)
        self._segments: dict[str, Segments] = {}

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
        values = self._segments[label_path].get((match["video"], int(match["segment"])))
        labels: dict[str, LabelValue] = dict(zip(COLUMNS, values, strict=True)) if values is not None else {}
        return [Described(labels, f"mosei-{match['video']}", self._split_of.get(match["video"]))]


def _read_labels(path: str) -> Segments:
    data = read_label_file(path, MAX_LABEL_BYTES)
    try:
        found = _from_csv(data) if path.endswith(".csv") else _from_hdf5(data)
    except (ValueError, KeyError, OSError, RuntimeError, TypeError, csv.Error) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"label file {printable(path)} is damaged ({reason}); fetch it again, or move it away to go without labels"
        ) from error
    whole = {key: values for key, values in found.items() if all(map(math.isfinite, values))}
    if len(whole) < len(found):
        logger.warning("%s: %d segments have no finite labels", printable(path), len(found) - len(whole))
    return whole


def _from_csv(data: bytes) -> Segments:
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    missing = {"video_id", "clip_id", *COLUMNS} - set(rows.fieldnames or ())
    if missing:
        raise ValueError(f"it has no column {', '.join(sorted(missing))}")
    return {(row["video_id"], int(row["clip_id"])): [float(row[name]) for name in COLUMNS] for row in rows}


def _from_hdf5(data: bytes) -> Segments:
    """Read ``All Labels/data/<video id>/features``, float (n, 7): a video's segments.

    An HDF5 file can point to other files (external links, external storage, virtual datasets); these are refused.
    """
    found: Segments = {}
    with h5py.File(io.BytesIO(data), "r") as file:
        videos = _own_child(_own_child(file, "All Labels"), "data")
        for video in videos:
            table = _own_child(_own_child(videos, video), "features")
            if not isinstance(table, h5py.Dataset) or table.is_virtual or table.external:
                raise ValueError(f"the features of {video!r} are no table of this file")
            if table.ndim != 2 or table.shape[1] != len(COLUMNS) or table.dtype.kind not in "fiu":
                raise ValueError(f"the features of {video!r} are {table.dtype} {table.shape}, not numbers (n, 7)")
            if len(found) + table.shape[0] > MAX_SEGMENTS:
                raise ValueError(f"it has more than {MAX_SEGMENTS} segments")
            rows = np.asarray(table[()], np.float64).tolist()
            found.update({(str(video), number): row for number, row in enumerate(rows)})
    return found


def _own_child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    if not isinstance(group, h5py.Group) or not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"it has no {name!r} of its own")
    return group[name]

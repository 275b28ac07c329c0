"""Reads ``CMU_MOSEI_Labels.csd``. HDF5 is a large native library and the file a stranger's: run it in a sandbox."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import h5py
import numpy as np

from pipeline.sources.layouts.described import read_label_file

COLUMNS = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
"""Order of the seven columns: sentiment in [-3, 3], then intensities in [0, 3]."""
MAX_LABEL_BYTES = 256 << 20
"""The real file has 23,000 segments in 10 MB."""
MAX_SEGMENTS = 100_000
DAMAGE = (ValueError, KeyError, OSError, RuntimeError, TypeError)
"""What h5py raises for files that are not whole."""
Segments = dict[tuple[str, int], Sequence[float]]
"""(video id, n) → the seven values of the video's n-th segment."""


def reader() -> Callable[[str], Segments]:
    """Return ``read_hdf5``: what the sandbox calls."""
    return read_hdf5


def read_hdf5(path: str) -> Segments:
    """Return the rows of ``All Labels/data/<video id>/features``, numbers (n, 7), of each video.

    An HDF5 file can point to other files (external links, external storage, virtual datasets); these are refused.

    Raises:
        ConfigError: the file cannot be read or is too large.
        Exception: one of ``DAMAGE``.
    """
    found: Segments = {}
    with h5py.File(io.BytesIO(read_label_file(path, MAX_LABEL_BYTES)), "r") as file:
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

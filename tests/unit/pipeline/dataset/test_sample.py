from __future__ import annotations

import gzip
import io

import numpy as np
import pytest

from infra.errors import CorruptShardError
from pipeline.dataset.sample import meta_from_bytes, meta_to_bytes, regions_from_bytes, regions_to_bytes


def test_members_come_back_as_they_went_in(builder) -> None:
    """Bug caught: a field lost between writing and reading (encode and decode are inverses)."""
    clip = builder.clip("a")
    assert meta_from_bytes(meta_to_bytes(clip.meta)) == clip.meta
    regions = builder.regions(clip)
    back = regions_from_bytes(regions_to_bytes(regions), clip.meta.frames)
    assert back.dtype == np.uint16
    assert np.array_equal(back, regions)


def _npy(array: np.ndarray, **kwargs: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **kwargs)
    return gzip.compress(buffer.getvalue())


WHOLE = _npy(np.zeros((16, 28, 28), np.uint16))
LYING = io.BytesIO()
np.lib.format.write_array_header_1_0(LYING, {"descr": "<u2", "fortran_order": False, "shape": (1 << 40, 28, 28)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an array",
        _npy(np.zeros((15, 28, 28), np.uint16)),
        _npy(np.zeros((16, 28, 28), np.int64)),
        _npy(np.array([print], dtype=object), allow_pickle=True),
        WHOLE[:-20],
        gzip.compress(gzip.decompress(WHOLE)[:-20]),
        gzip.compress(gzip.decompress(WHOLE) + bytes(1 << 24)),
        gzip.compress(LYING.getvalue()),
    ],
    ids=[
        "empty",
        "text",
        "too few maps",
        "wrong type",
        "pickled object",
        "cut gzip",
        "cut array",
        "16 MB behind the end",
        "a shape of petabytes",
    ],
)
def test_region_maps_that_are_not_what_they_should_be_are_corrupt(data: bytes) -> None:
    """Bug caught: maps shifted against their frames by a wrong count; an object array that runs code when loaded.

    And a petabyte allocated, or all of a bomb unpacked, because a file says so.
    """
    with pytest.raises(CorruptShardError):
        regions_from_bytes(data, frames=64)


def test_damaged_metadata_is_corrupt() -> None:
    """Bug caught: a validation error of the JSON library reaching the training loop as such."""
    with pytest.raises(CorruptShardError, match="damaged"):
        meta_from_bytes(b'{"key": 1}')

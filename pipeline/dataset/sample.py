"""The members of one sample as bytes, and back; whatever comes from a file is checked."""

from __future__ import annotations

import io
import zlib

import numpy as np
from pydantic import ValidationError

from infra.errors import CorruptShardError
from pipeline.dataset.format import REGION_CELLS, region_rows
from pipeline.rows import ClipMeta

GZIP = 31
"""zlib's name for a gzip stream with its largest window."""
NPY_HEADER_BYTES = 128
"""What numpy writes before the cells of an array whose header is short."""


def meta_to_bytes(meta: ClipMeta) -> bytes:
    """Return ``KEY.json``."""
    return meta.model_dump_json().encode()


def meta_from_bytes(data: bytes) -> ClipMeta:
    """Parse ``KEY.json``; CorruptShardError when it is not what ClipMeta says."""
    try:
        return ClipMeta.model_validate_json(data)
    except ValidationError as error:
        raise CorruptShardError(f"clip metadata is damaged: {str(error).splitlines()[0]}") from error


def regions_to_bytes(regions_R2828: np.ndarray) -> bytes:
    """Return region maps, uint16 (R, 28, 28), as the bytes of a gzipped ``.npy`` file: 1 to 2 kB for 25 kB of cells.

    The plain webdataset library opens it by its ending. Nothing of today is in the gzip header: same maps, same bytes.
    """
    buffer = io.BytesIO()
    np.save(buffer, regions_R2828.astype("<u2", casting="equiv"), allow_pickle=False)
    gzip = zlib.compressobj(level=9, wbits=GZIP)
    return gzip.compress(buffer.getvalue()) + gzip.flush()


def regions_from_bytes(data: bytes, frames: int) -> np.ndarray:
    """Return the region maps of a clip of ``frames`` frames, uint16 (ceil(frames / 4), 28, 28).

    Raises:
        CorruptShardError: no gzipped ``.npy``, an object array, or another shape or type. No more is unpacked than
            such maps hold, whatever the file claims.
    """
    wanted = (region_rows(frames), REGION_CELLS, REGION_CELLS)
    size = 2 * int(np.prod(wanted))
    gzip = zlib.decompressobj(wbits=GZIP)
    try:
        file = io.BytesIO(gzip.decompress(data, size + NPY_HEADER_BYTES))
        np.lib.format.read_magic(file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except (zlib.error, ValueError, EOFError) as error:
        raise CorruptShardError(f"region maps are no gzipped .npy file: {error}") from error
    if dtype != np.uint16 or shape != wanted or fortran:
        raise CorruptShardError(f"region maps are {dtype} {shape}, not uint16 {wanted}")
    cells = file.read()
    if len(cells) != size or not gzip.eof:
        raise CorruptShardError("region maps are cut short or have bytes behind their end")
    return np.frombuffer(bytearray(cells), "<u2").reshape(wanted)

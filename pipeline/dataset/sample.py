"""The members of one sample as bytes, and back; whatever comes from a file is checked."""

from __future__ import annotations

import io

import numpy as np
from pydantic import ValidationError

from infra.errors import CorruptShardError
from pipeline.dataset.format import REGION_CELLS, region_rows
from pipeline.rows import ClipMeta


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
    """Return region maps, uint16 (R, 28, 28), as the bytes of an ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, regions_R2828.astype("<u2", casting="equiv"), allow_pickle=False)
    return buffer.getvalue()


def regions_from_bytes(data: bytes, frames: int) -> np.ndarray:
    """Return the region maps of a clip of ``frames`` frames, uint16 (ceil(frames / 4), 28, 28).

    Raises:
        CorruptShardError: no ``.npy``, an object array, or another shape or type.
    """
    try:
        regions = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CorruptShardError(f"region maps are no .npy file: {error}") from error
    wanted = (region_rows(frames), REGION_CELLS, REGION_CELLS)
    if not isinstance(regions, np.ndarray) or regions.dtype != np.uint16 or regions.shape != wanted:
        found = f"{getattr(regions, 'dtype', type(regions).__name__)} {getattr(regions, 'shape', '')}"
        raise CorruptShardError(f"region maps are {found}, not uint16 {wanted}")
    return regions

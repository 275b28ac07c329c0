"""Tables as Parquet bytes, read in the calling thread."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(data: bytes) -> pa.Table:
    """Return the table of a Parquet file's bytes.

    Neither of pyarrow's thread pools is started: pyarrow 26 may abort a short command at exit while one is starting
    ("terminate called without an active exception").

    Raises:
        pa.ArrowException, OSError: it is damaged.
    """
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


def table_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file; the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()

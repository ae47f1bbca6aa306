"""Compress objects as they come: `python -m shardstream.etl transform.py`."""

import zlib
from collections.abc import Iterator
from typing import BinaryIO


def transform(data: BinaryIO, level: int = 6) -> Iterator[bytes]:
    """Yield the compressed object piece by piece, whatever its size."""
    z = zlib.compressobj(level, wbits=31)  # as gzip does
    while piece := data.read(1 << 20):
        yield z.compress(piece)
    yield z.flush()

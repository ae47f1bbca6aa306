"""The bytes of objects on their way: what a PUT sends, and whether what came is what was stored."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ._exceptions import IntegrityError
from ._http import Response
from ._models import checksums

CHUNK = 1 << 20
_TEXT_FILES: type[object] = io.TextIOBase  # what a PUT does not take

#: What a PUT takes: bytes, a path to a file, or an open binary file.
Data = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO


class Body:
    """The bytes of a PUT: chunks that can be made again, their length, and their checksum."""

    def __init__(self, data: Data) -> None:
        self.crc32: int | None = None  # known beforehand, for bytes in memory
        self.sent_crc32 = 0
        self.length: int | None
        self._file: BinaryIO | None = None
        self._view: memoryview | None = None
        self._own = False
        if isinstance(data, (bytes, bytearray, memoryview)):
            self._view = memoryview(data).cast("B")
            self.length = len(self._view)
            self.crc32 = zlib.crc32(self._view)
            self.repeatable = True
            return
        if isinstance(data, (str, os.PathLike)):
            self._file, self._own = Path(data).open("rb"), True  # noqa: SIM115 (closed by close)
        elif not isinstance(data, _TEXT_FILES) and hasattr(data, "read"):
            self._file = data
        else:
            raise TypeError(
                "data must be bytes, a path or a file that is open for reading bytes "
                f"(mode 'rb'), not {type(data).__name__}"
            )
        try:
            self._start = self._file.tell()
            self.length = self._file.seek(0, os.SEEK_END) - self._start
            self._file.seek(self._start)
            self.repeatable = True
        except (OSError, AttributeError):  # a pipe, say: sent once, in chunks
            self.length = None
            self.repeatable = False

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The body from its beginning."""
        self.sent_crc32 = 0
        if self._view is not None:
            for at in range(0, len(self._view), CHUNK):
                yield self._view[at : at + CHUNK]
            self.sent_crc32 = self.crc32 or 0
            return
        assert self._file is not None
        if self.repeatable:
            self._file.seek(self._start)
        while chunk := self._file.read(CHUNK):
            self.sent_crc32 = zlib.crc32(chunk, self.sent_crc32)
            yield chunk

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._own and self._file is not None:
            self._file.close()


def header_text(name: str, value: str) -> str:
    """Text as a header carries it: http.client writes Latin-1, so its UTF-8 is spelled in that."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise ValueError(f"{name} must have no control characters: {value!r}")
    return value.encode().decode("latin-1")


def read_json(response: Response) -> Any:
    return json.loads(response.read())


def verify(what: str, response: Response, crc32: int, name: str = "X-Shardstream-Checksum") -> None:
    """Compare a body's checksum with the one that came with it, before or behind it."""
    value = response.headers.get(name) or response.trailers.get(name)
    expected = checksums(value).get("crc32")
    if expected and int(expected, 16) != crc32:
        raise IntegrityError(
            f"{what}: received bytes with crc32 {crc32:08x}, but {expected} was promised: read "
            "it again; if it persists, run `shardstream fsck`"
        )

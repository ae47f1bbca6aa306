"""Bodies of HTTP messages: read to their end, or known to be cut off; written as they are made."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

from ._values import Buffer

PIECE = 1 << 20
GATHER = 64 << 10  # bytes that are sent together, unless they have waited for
GATHER_S = 0.05  # as long
MAX_LINE = 64 << 10
MAX_TRAILERS = 100


class GoneError(Exception):
    """The client has gone, or does not speak HTTP."""


class RequestError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, traceback: str = "") -> None:
        """Take the status and what goes into the body."""
        super().__init__(message)
        self.status = status
        self.text = f"{message}\n{traceback}" if traceback else message


class Body(io.RawIOBase):
    """A body: of the length that was announced, or in chunks."""

    def __init__(
        self, source: Any, length: int | None, fault: Callable[[str], Exception] = GoneError
    ) -> None:
        """Read from source; a length of None means chunks, `fault` is raised for what is cut."""
        super().__init__()
        self.failed = False
        self.ended = length == 0
        self._source = source
        self._fault = fault
        self._chunked = length is None
        self._left = length or 0  # of the body, or of the chunk in hand
        self._room: int | None = None
        self._most = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def bound(self, most: int) -> None:
        """Refuse more than so many bytes, at once where they were announced."""
        self._room = self._most = most
        if not self._chunked and self._left > most:
            raise self._too_large(most)

    def readinto(self, buffer: Any) -> int:
        """Read what there is, up to the size of the buffer."""
        view = memoryview(buffer).cast("B")
        if not len(view) or not self._more():
            return 0
        try:
            count = int(self._source.readinto(view[: min(len(view), self._left)]))
        except OSError as error:
            raise self._cut(str(error)) from None
        self._took(count)
        return count

    def read(self, size: int | None = -1) -> bytes:
        """Read up to size bytes, fewer only at the end; all of them by default."""
        parts = []
        wanted = -1 if size is None else size
        while wanted and self._more():
            most = self._left if wanted < 0 else min(wanted, self._left)
            try:
                data = self._source.read(min(most, PIECE))
            except OSError as error:
                raise self._cut(str(error)) from None
            self._took(len(data))
            parts.append(data)
            wanted -= len(data) if wanted > 0 else 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readall(self) -> bytes:
        """Read the rest."""
        return self.read()

    def _more(self) -> bool:
        """Say whether bytes follow, having read the head of the next chunk where one is due."""
        if self.ended or not self._chunked or self._left:
            return not self.ended
        line = self._line()
        size = line.split(b";", 1)[0].strip()
        if not size or size.strip(b"0123456789abcdefABCDEF") or len(size) > 15:
            raise self._cut(f"a chunk begins with {line[:80]!r}")
        self._left = int(size, 16)
        if self._left:
            return True
        for _ in range(MAX_TRAILERS):
            if not self._line():
                self.ended = True
                return False
        raise self._cut("too many trailers")

    def _line(self) -> bytes:
        try:
            line = self._source.readline(MAX_LINE)
        except OSError as error:
            raise self._cut(str(error)) from None
        if not line.endswith(b"\n"):
            raise self._cut("it ends in the middle of its chunks")
        return bytes(line).rstrip(b"\r\n")

    def _took(self, count: int) -> None:
        if not count:
            raise self._cut(f"it ends {self._left} bytes early")
        self._left -= count
        if not self._left:
            if not self._chunked:
                self.ended = True
            elif self._line():
                raise self._cut("a chunk is longer than it said")
        if self._room is not None:
            self._room -= count
            if self._room < 0:
                raise self._too_large(self._most)

    def _cut(self, why: str) -> Exception:
        self.failed = True
        return self._fault(why)

    @staticmethod
    def _too_large(most: int) -> RequestError:
        return RequestError(
            413,
            f"more than the {most} bytes that are allowed: raise max_body, or let an object-level "
            "function read from a file (def transform(data: BinaryIO))",
        )


class Chunks:
    """Writes a body in chunks; small parts go together."""

    def __init__(self, file: Any, chunked: bool) -> None:
        """Write to file, which gathers nothing itself; plainly where not chunked."""
        self._file = file
        self._chunked = chunked
        self._waiting: list[Buffer] = []
        self._size = 0
        self._sent = time.monotonic()

    def write(self, data: Buffer) -> None:
        """Add a part; its memory may change once this has returned."""
        if len(data) >= GATHER:
            self.flush()
            self._send(data, len(data))
            return
        self._waiting.append(bytes(data))
        self._size += len(data)
        if self._size >= GATHER or time.monotonic() - self._sent > GATHER_S:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._size:
            self._send(b"".join(self._waiting), self._size)
            self._waiting, self._size = [], 0

    def end(self) -> None:
        """Send the rest and the end mark."""
        self.flush()
        if self._chunked:
            self._put(b"0\r\n\r\n")

    def _send(self, data: Buffer, size: int) -> None:
        if self._chunked:
            self._put(b"%x\r\n" % size)
        self._put(data)
        if self._chunked:
            self._put(b"\r\n")
        try:
            self._file.flush()
        except OSError as error:
            raise GoneError(str(error)) from None
        self._sent = time.monotonic()

    def _put(self, data: Buffer) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise GoneError(str(error)) from None

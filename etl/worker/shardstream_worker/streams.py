"""Objects in pieces: a file that user code reads from, and an answer that it makes bit by bit."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator

from .frames import (
    FLAG_ABORT,
    FLAG_LAST,
    PIECE,
    REQUEST_HEAD,
    REQUEST_MAGIC,
    REQUEST_PIECE,
    RESULT_DONE,
    RESULT_HEAD,
    RESULT_MAGIC,
    RESULT_PIECE,
    ReturnError,
)

_SEND_FROM = 64 << 10  # smaller pieces wait for others, but not
_SEND_AFTER = 0.05  # longer than this, in seconds


class Incoming(io.RawIOBase):
    """The object, as its pieces arrive."""

    def __init__(self, source: io.BufferedReader[io.FileIO], gone: Callable[[], None]) -> None:
        """Begin an object; gone ends the process where the node has ended."""
        self._source = source
        self._gone = gone
        self._left = 0
        self._ended = False
        self._failed = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object, /) -> int:
        """Read some bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not view.nbytes or not self._next():
            return 0
        n = self._source.readinto(view[: self._left])
        if not n:
            self._gone()
        self._left -= n
        return n

    def _next(self) -> bool:
        """Whether there are bytes of a piece to be read."""
        while not self._left and not self._ended:
            head = self._source.read(REQUEST_HEAD.size)
            if len(head) < REQUEST_HEAD.size:
                self._gone()
            magic, kind, flags, _, _, _, _, _, self._left = REQUEST_HEAD.unpack(head)
            if magic != REQUEST_MAGIC or kind != REQUEST_PIECE:
                raise SystemExit("frame out of step")
            self._ended = bool(flags & FLAG_LAST)
            self._failed = bool(flags & FLAG_ABORT)
        if self._failed:
            raise OSError("the object can't be read to its end")
        return bool(self._left)

    def drain(self) -> None:
        """Read what is left of the object, so that the next request is what follows."""
        buffer = bytearray(PIECE)
        try:
            while self._next():
                n = self._source.readinto(memoryview(buffer)[: self._left])
                if not n:
                    self._gone()
                self._left -= n
        except OSError:
            return


def send_pieces(
    seq: int, pieces: Iterator[object], limit: int, send: Callable[[list[object]], None]
) -> None:
    """Send what an iterator yields, small pieces together."""
    waiting: list[object] = []
    size = total = 0
    sent = time.monotonic()
    for piece in pieces:
        if isinstance(piece, str):
            piece = piece.encode()
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise ReturnError(
                f"the function yielded {type(piece).__name__}; an object-level function that "
                "returns an iterator must yield bytes"
            )
        # What is sent later must not change until then.
        data = piece if type(piece) is bytes else bytes(piece)
        total += len(data)
        if total > limit:
            raise ReturnError(
                f"the function yielded more than {limit} bytes; max_output allows no more"
            )
        waiting.append(data)
        size += len(data)
        now = time.monotonic()
        if size >= _SEND_FROM or (size and now - sent > _SEND_AFTER):
            _send(seq, waiting, size, send)
            waiting, size, sent = [], 0, now
    if size:
        _send(seq, waiting, size, send)
    send([RESULT_HEAD.pack(RESULT_MAGIC, RESULT_DONE, 0, 0, seq, 0, 0, 0)])


def _send(seq: int, waiting: list[object], size: int, send: Callable[[list[object]], None]) -> None:
    """Send bytes in frames that the node takes."""
    whole = b"".join(waiting) if size < PIECE else None  # type: ignore[arg-type]
    for data in waiting if whole is None else (whole,):
        view = memoryview(data)  # type: ignore[arg-type]
        for at in range(0, len(view), PIECE):
            part = view[at : at + PIECE]
            send([RESULT_HEAD.pack(RESULT_MAGIC, RESULT_PIECE, 0, 0, seq, 0, 0, len(part)), part])

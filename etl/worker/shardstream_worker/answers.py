"""Answers: what a function returned, described in a frame, its large parts in the shared memory."""

from __future__ import annotations

import struct
from typing import Any

from .frames import (
    ECHO,
    ECHO_FROM,
    FIELD_HEAD,
    INLINE,
    MAX_FIELDS,
    MAX_KEY,
    MAX_NAME,
    RESULT_COLUMNS,
    RESULT_HEAD,
    RESULT_MAGIC,
    RESULT_SAMPLE,
    ROWS,
    SHARED_FROM,
    ReturnError,
)
from .values import BYTES, TEXT, Buffer, encode_array, encode_value

_DICT = "(name -> bytes, str, int, float, bool, numpy array)"
_COLUMN = (
    "a column is an array whose first dimension is the number of samples, or a list with one value "
    "for each of them"
)


class Area:
    """The part of the shared memory that results go to, filled from its beginning."""

    def __init__(self, memory: memoryview) -> None:
        """Begin at the beginning of some memory."""
        self._memory = memory
        self.used = 0

    def place(self, buffer: Buffer) -> int:
        """Put bytes there and return their place; INLINE where there is no room for them."""
        at = self.used
        end = at + len(buffer)
        if end > len(self._memory):
            return INLINE
        self._memory[at:end] = buffer
        self.used = (end + 63) & ~63
        return at


class Echoes:
    """The blobs of a request, by identity: those that come back as they went need not travel."""

    def __init__(self) -> None:
        """Know none."""
        self._places: dict[int, int] = {}
        self._held: list[bytes] = []  # while these live, their identities are theirs alone

    def clear(self) -> None:
        """Forget them: another request begins."""
        self._places.clear()
        self._held.clear()

    def add(self, sample: int, field: int, data: bytes) -> None:
        """Remember one."""
        if len(data) >= ECHO_FROM:
            self._places[id(data)] = ECHO | sample << 16 | field
            self._held.append(data)

    def place(self, data: object) -> int | None:
        """Return which one it is, None for none."""
        return self._places.get(id(data))


class Answer:
    """One frame in the making."""

    def __init__(self, area: Area, echoes: Echoes, limit: int) -> None:
        """Begin one of at most so many bytes."""
        self._area, self._echoes, self._limit = area, echoes, limit
        self._meta: list[bytes] = []
        self._inline: list[bytes] = []
        self._inline_size = 0
        self.fields = 0
        self.size = 0

    def add(self, name: bytes, code: int, shape: tuple[int, ...], buffer: Buffer) -> None:
        """Describe a value and find a place for it."""
        length = len(buffer)
        self.size += length
        if self.size > self._limit:
            return  # check says so, once all is counted
        place: int | None = None
        if length >= ECHO_FROM and type(buffer) is bytes:
            place = self._echoes.place(buffer)
        if place is None:
            place = INLINE
            if length >= SHARED_FROM:
                place = self._area.place(buffer)
            if place == INLINE and length:
                # A view is of memory that user code may change before the frame is sent.
                self._inline.append(buffer if type(buffer) is bytes else bytes(buffer))
                self._inline_size += length
        self._meta.append(FIELD_HEAD.pack(len(name), code, len(shape), length, place))
        if shape:
            self._meta.append(struct.pack(f"<{len(shape)}q", *shape))
        self._meta.append(name)

    def rows(self, name: bytes) -> None:
        """Begin a column of values that follow, one for each sample."""
        self._meta.append(FIELD_HEAD.pack(len(name), ROWS, 0, 0, INLINE))
        self._meta.append(name)

    def check(self, what: str) -> None:
        """Raise ReturnError if it is too large to travel."""
        if self.fields > MAX_FIELDS:
            raise ReturnError(
                f"the function returned {self.fields} fields; {MAX_FIELDS} are allowed", final=True
            )
        if self.size > self._limit:
            raise ReturnError(
                f"the function returned {self.size} bytes{what}; "
                f"{self._limit} are allowed (max_output)"
            )

    def frame(self, kind: int, seq: int, key: bytes) -> bytes:
        """All of it but what lies in the shared memory."""
        meta = b"".join(self._meta)
        head = RESULT_HEAD.pack(
            RESULT_MAGIC, kind, 0, self.fields, seq, len(meta), len(key), self._inline_size
        )
        return b"".join((head, key, meta, *self._inline))


def sample_frame(answer: Answer, seq: int, key: str, result: object) -> bytes:
    """The frame of a returned dict."""
    if not isinstance(result, dict):
        raise ReturnError(
            f"the function returned {type(result).__name__}; it must return a dict of fields "
            f"{_DICT}"
        )
    new_key = b""
    for name, value in result.items():
        if type(name) is str and name[:2] == "__":
            if name == "__key__" and value != key:
                new_key = _checked_key(value)
            _reserved(name)
            continue
        answer.add(_checked_name(name), *encode_value(name, value))
        answer.fields += 1
    answer.check(" for one sample")
    return answer.frame(RESULT_SAMPLE, seq, new_key)


def columns_frame(answer: Answer, seq: int, count: int, result: object) -> bytes:
    """The frame of the columns that a batch function returned for so many samples."""
    if not isinstance(result, dict):
        raise ReturnError(
            f"the function returned {type(result).__name__}; a batch function must return a dict "
            f"of columns: {_COLUMN}",
            final=True,
        )
    for name, value in result.items():
        if type(name) is str and name[:2] == "__":
            if name == "__key__":
                _keys(answer, value, count)
            _reserved(name)
            continue
        raw = _checked_name(name)
        if isinstance(value, (list, tuple)):
            _count(name, len(value), count)
            answer.rows(raw)
            for row in value:
                answer.add(b"", *encode_value(name, row))
        else:
            answer.add(raw, *_dense(name, value, count))
        answer.fields += 1
    answer.check(f" for {count} samples")
    return answer.frame(RESULT_COLUMNS, seq, b"")


def _dense(name: str, value: object, count: int) -> tuple[int, tuple[int, ...], Buffer]:
    """A column that is one array."""
    if isinstance(value, (bytes, bytearray, str, int, float, dict, set)) or value is None:
        raise ReturnError(
            f"the function returned {type(value).__name__} for column {name!r}; {_COLUMN}",
            final=True,
        )
    code, shape, buffer = encode_array(name, value)
    if not shape:
        raise ReturnError(
            f"the function returned a scalar for column {name!r}; {_COLUMN}", final=True
        )
    _count(name, shape[0], count)
    return code, shape, buffer


def _count(name: str, rows: int, count: int) -> None:
    if rows != count:
        raise ReturnError(
            f"the function returned {rows} rows in column {name!r} for {count} samples; {_COLUMN}",
            final=True,
        )


def _keys(answer: Answer, value: object, count: int) -> None:
    if not isinstance(value, (list, tuple)):
        raise ReturnError(
            f"the function returned {type(value).__name__} for column '__key__'; it must be a list "
            "of str",
            final=True,
        )
    _count("__key__", len(value), count)
    answer.rows(b"__key__")
    answer.fields += 1
    for row in value:
        answer.add(b"", TEXT, (), _checked_key(row))


def _reserved(name: str) -> None:
    """Refuse names that are ours, but those of what the function was given."""
    if name not in ("__key__", "__seed__"):
        raise ReturnError(
            f"the function returned a field {name!r}; names that begin with __ are reserved",
            final=True,
        )


def _checked_name(name: Any) -> bytes:
    if not isinstance(name, str):
        raise ReturnError(
            f"the function returned a dict with the key {name!r} ({type(name).__name__}); "
            "keys must be str",
            final=True,
        )
    raw = name.encode("utf-8", "replace")
    if not raw or len(raw) > MAX_NAME or "/" in name or "\0" in name:
        raise ReturnError(
            f"the function returned a field named {name[:80]!r}; "
            f"use 1 to {MAX_NAME} bytes, no / and no NUL",
            final=True,
        )
    return raw


def _checked_key(value: object) -> bytes:
    """Check a `__key__` that the function has changed."""
    if not isinstance(value, str):
        raise ReturnError(
            f"the function returned {type(value).__name__} for '__key__'; it must be str"
        )
    raw = value.encode("utf-8", "replace")
    if (
        not raw
        or len(raw) > MAX_KEY
        or "\0" in value
        or value[0] == "/"
        or ".." in value.split("/")
    ):
        raise ReturnError(
            f"the function returned the key {value[:80]!r}, which can't name a sample"
        )
    return raw


def object_frame(answer: Answer, seq: int, result: object) -> bytes:
    """The frame of an object's bytes, in one piece."""
    if isinstance(result, str):
        result = result.encode()
    if not isinstance(result, (bytes, bytearray, memoryview)):
        raise ReturnError(
            f"the function returned {type(result).__name__}; "
            "an object-level function must return bytes, or an iterator of bytes"
        )
    flat = result if type(result) is bytes else memoryview(result)
    if isinstance(flat, memoryview) and not (flat.c_contiguous and flat.ndim == 1):
        flat = flat.tobytes()
    answer.add(b"data", BYTES, (), flat if type(flat) is bytes else memoryview(flat).cast("B"))
    answer.fields = 1
    answer.check("")
    return answer.frame(RESULT_SAMPLE, seq, b"")

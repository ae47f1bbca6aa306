"""From a slot's table to a batch: views on the slot's memory, nothing copied.

The layout of the table is the loader's (loader/table.go): int64 words, little-endian, with
offsets that are absolute in the slot.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ._exceptions import InternalError

#: A batch: column name -> values. See `IterableDataset`.
Batch = dict[str, Any]
Array = npt.NDArray[Any]

_MAGIC = 0x53535441424C0001
_HEAD_WORDS = 16
_COLUMN_WORDS = 16
_SHAPE_WORDS = 9
_RAGGED = 1

_BYTES, _TEXT, _JSON = 0, 13, 14
#: numpy's types by the codes of the Go package etl.
_DTYPES: dict[int, np.dtype[Any]] = {
    code: np.dtype(name)
    for code, name in enumerate(
        (
            *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
            *("float16", "float32", "float64"),
        ),
        start=1,
    )
}

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("shardstream's batches are little-endian, and this machine is not")


class Header:
    """The table's head: what a batch is, apart from its values."""

    def __init__(self, memory: Any, table: int) -> None:
        words = np.frombuffer(memory, np.int64, _HEAD_WORDS, table).tolist()
        if words[0] != _MAGIC:
            raise InternalError(
                f"no batch table at offset {table}: the loader and the package do not fit together"
            )
        self.samples: int = words[1]
        self.columns: int = words[2]
        self.index: int = words[3]
        self.position: int = words[4]  # of the first sample in the epoch
        self.next_position: int = words[5]  # what a checkpoint stores
        self.keys: tuple[int, int, int] = (words[8], words[9], words[10])
        self.mask: int = words[11]
        self.skipped: int = words[12]
        self.sources: int = words[13]


class BytesColumn:
    """A column of byte strings: a sequence of zero-copy memoryviews, None where one is missing.

    It has a sequence's methods, but is not registered as one: torch's collating takes sequences
    apart down to single bytes. Pickling copies the bytes.
    """

    __slots__ = ("_array", "_buffer", "_list")

    def __init__(self, buffer: memoryview, spans: Array) -> None:
        self._buffer = buffer
        self._array = spans  # int64[n, 2]: offset and length, length -1 = missing
        self._list: list[list[int]] | None = None  # the same, once it is needed

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, index: int) -> memoryview | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[memoryview | None]: ...

    def __getitem__(self, index: int | slice) -> memoryview | list[memoryview | None] | None:
        if isinstance(index, slice):
            return [self._view(*span) for span in self._spans[index]]
        return self._view(*self._spans[index])

    def __iter__(self) -> Iterator[memoryview | None]:
        return (self._view(offset, length) for offset, length in self._spans)

    def __repr__(self) -> str:
        return f"<BytesColumn of {len(self)} values, {self.nbytes} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BytesColumn):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        joined = bytearray()
        spans = []
        for offset, length in self._spans:
            spans.append([len(joined), length])
            if length > 0:
                joined += self._buffer[offset : offset + length]
        return _rebuild, (bytes(joined), np.array(spans, np.int64).reshape(-1, 2))

    @property
    def nbytes(self) -> int:
        """The sum of the values' lengths."""
        return int(self._array[:, 1].clip(0).sum())

    def tolist(self) -> list[bytes | None]:
        """Copies of the values."""
        return [None if view is None else bytes(view) for view in self]

    @property
    def _spans(self) -> list[list[int]]:
        if self._list is None:
            self._list = self._array.tolist()
        return self._list

    def _view(self, offset: int, length: int) -> memoryview | None:
        return None if length < 0 else self._buffer[offset : offset + length]


def _rebuild(joined: bytes, spans: Array) -> BytesColumn:
    return BytesColumn(memoryview(joined), spans)


def read(
    memory: Any, table: int, convert: Callable[[Array], Any] | None = None
) -> tuple[Header, Batch]:
    """Lay a batch's views over memory; each of them keeps memory alive.

    Args:
        memory: the slot, anything with the buffer protocol.
        table: the offset of its table.
        convert: applied to every array, for example torch.from_numpy.
    """
    head = Header(memory, table)
    convert = convert or _same
    n = head.samples
    raw = memoryview(np.frombuffer(memory, np.uint8))  # type: ignore[arg-type, unused-ignore]
    batch: Batch = {"__key__": _strings(raw, *head.keys, n)}
    if head.mask:
        batch["__mask__"] = convert(np.frombuffer(memory, np.bool_, n, head.mask))
    if head.sources:
        batch["__source__"] = convert(np.frombuffer(memory, np.int64, n, head.sources))
    columns = np.frombuffer(
        memory, np.int64, head.columns * _COLUMN_WORDS, table + _HEAD_WORDS * 8
    ).reshape(head.columns, _COLUMN_WORDS)
    for words in columns.tolist():
        name = str(raw[words[0] : words[0] + words[1]], "utf-8")
        batch[name] = _column(memory, raw, n, words, convert)
    return head, batch


def _same(array: Array) -> Array:
    return array


def _column(
    memory: Any, raw: memoryview, n: int, words: list[int], convert: Callable[[Array], Any]
) -> Any:
    dtype, kind, dims = words[2], words[3], words[5 : 5 + words[4]]
    if kind != _RAGGED:
        shape = [n, *dims]
        flat = np.frombuffer(memory, _DTYPES[dtype], math.prod(shape), words[13])
        return convert(flat.reshape(shape))
    table = np.frombuffer(memory, np.int64, 2 * n, words[13]).reshape(n, 2)
    if dtype == _BYTES:
        return BytesColumn(raw, table)
    spans = table.tolist()
    if dtype == _TEXT:
        return [
            None if length < 0 else str(raw[offset : offset + length], "utf-8")
            for offset, length in spans
        ]
    if dtype == _JSON:
        return [
            None if length < 0 else json.loads(str(raw[offset : offset + length], "utf-8"))
            for offset, length in spans
        ]
    shapes = np.frombuffer(memory, np.int64, _SHAPE_WORDS * n, words[14])
    values: list[Any] = []
    for (offset, length), shape in zip(
        spans, shapes.reshape(n, _SHAPE_WORDS).tolist(), strict=True
    ):
        if length < 0:
            values.append(None)
            continue
        item = shape[1 : 1 + shape[0]]
        flat = np.frombuffer(memory, _DTYPES[dtype], math.prod(item), offset)
        values.append(convert(flat.reshape(item)))
    return values


def _strings(raw: memoryview, offset: int, length: int, ends: int, n: int) -> list[str]:
    """Read n strings of a blob, cut at their ends."""
    cuts = np.frombuffer(raw, np.int64, n, ends).tolist()
    blob = bytes(raw[offset : offset + length])
    starts = [0, *cuts[:-1]]
    # Names of members are bytes: what is not UTF-8 survives the round trip as surrogates.
    text = blob.decode("utf-8", "surrogateescape")
    if len(text) == length:  # one character for each byte
        return [text[a:b] for a, b in zip(starts, cuts, strict=True)]
    return [blob[a:b].decode("utf-8", "surrogateescape") for a, b in zip(starts, cuts, strict=True)]

"""A user's function, called as the targets call it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from . import _values
from ._samples import FIELD, Fault, Sample, encode_fault, encode_sample, name_of, seal
from ._values import Buffer, ReturnError

LEVELS = ("sample", "batch", "object")
MAX_KEY = 4096
CHUNK = 256 << 10
# Annotations of a function that wants a file instead of bytes.
FILES = frozenset(
    {"BinaryIO", "IO[bytes]", "RawIOBase", "BufferedIOBase", "BufferedReader", "IOBase"}
)
HERE = os.path.dirname(os.path.abspath(__file__))


class ArgumentsError(ValueError):
    """The request's arguments are not the function's."""


class Function:
    """What is served: a function, its level, and how it wants its data."""

    def __init__(
        self, function: Callable[..., object], level: str, *, stream: bool | None, seeded: bool
    ) -> None:
        """Check that the function can be called.

        `stream` says that an object-level function takes a file to read from; None looks at the
        annotation of its first parameter. `seeded` seeds `random`, numpy and torch before each
        call of a function of level "sample".
        """
        if level not in LEVELS:
            raise ValueError(f"level {level!r}: use {', '.join(map(repr, LEVELS))}")
        name = getattr(function, "__name__", type(function).__name__)
        if not callable(function):
            raise TypeError(f"{function!r} is not a function")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{name} is async; define it with plain def")
        self.call = function
        self.name = name
        self.level = level
        self.stream = takes_stream(function) if stream is None else stream
        self.seeded = seeded and level == "sample"
        self.bind({})
        if level == "sample" and importlib.util.find_spec("numpy") is not None:
            # Loaded by the function itself, it would not be seeded in the first call.
            importlib.import_module("numpy.random")

    def bind(self, arguments: dict[str, Any]) -> None:
        """Raise ArgumentsError unless the function takes these arguments."""
        try:
            signature = inspect.signature(self.call)
        except ValueError:
            return  # a builtin without a signature
        try:
            signature.bind(None, **arguments)
        except TypeError as error:
            told = f"with the arguments {', '.join(sorted(arguments))}" if arguments else "alone"
            raise ArgumentsError(
                f"{self.name}{signature} can't be called with its data {told}: {error}"
            ) from None

    def object(self, data: bytes | BinaryIO, arguments: dict[str, Any]) -> bytes | Iterator[bytes]:
        """Transform an object: its bytes, or a file where the function takes a stream."""
        return answer_of(self.call(data, **arguments))

    def samples(self, items: Iterable[Sample], arguments: dict[str, Any]) -> Iterator[list[Buffer]]:
        """Transform samples one by one; each answer is to be sent before the next is made."""
        for sample in items:
            try:
                if self.seeded and sample.seed:
                    seed_all(sample.seed)
                result = self.call(dict_of(sample), **arguments)
                answer = encode_sample(sample_of(sample.key, result))
            except (Exception, SystemExit) as error:
                answer = [encode_fault(fault_of(error))]
            yield answer

    def batch(self, items: list[Sample], arguments: dict[str, Any]) -> Iterator[list[Buffer]]:
        """Transform samples together, and each alone where the function raises."""
        try:
            result = self.call([dict_of(sample) for sample in items], **arguments)
            rows = Rows(result, len(items))
        except (Exception, SystemExit) as error:
            if len(items) == 1 or isinstance(error, ReturnError):
                failed: list[Buffer] = [encode_fault(fault_of(error))]
                yield from (failed for _ in items)
                return
            # So that only those samples fail that make it raise.
            for sample in items:
                yield from self.batch([sample], arguments)
            return
        for number, sample in enumerate(items):
            try:
                answer = rows.row(number, sample.key)
            except (Exception, SystemExit) as error:
                answer = [encode_fault(fault_of(error))]
            yield answer


def takes_stream(function: Callable[..., object]) -> bool:
    """Say whether a function's first parameter is annotated as a binary file.

    Annotations are compared by name: with postponed evaluation they are text.
    """
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):
        return False
    if first is None:
        return False
    note = first.annotation
    told = note.__name__ if isinstance(note, type) else str(note).strip("'\"")
    return told.rsplit(".", 1)[-1] in FILES


def answer_of(result: object) -> bytes | Iterator[bytes]:
    """Return what an object-level function has returned, ready to be sent."""
    if isinstance(result, str):
        return result.encode()
    if isinstance(result, bytes):
        return result
    if isinstance(result, (bytearray, memoryview)):
        return bytes(result)
    if hasattr(result, "read"):
        return read_chunks(result)
    if isinstance(result, Iterator):
        return checked(result)
    raise ReturnError(
        f"the function returned {type(result).__name__}; "
        "an object-level function returns bytes, an iterator of bytes or a binary file"
    )


def read_chunks(file: Any) -> Iterator[bytes]:
    """Yield what a file holds, and close it."""
    try:
        while chunk := file.read(CHUNK):
            yield chunk
    finally:
        file.close()


def checked(chunks: Iterator[object]) -> Iterator[bytes]:
    """Yield chunks, each of which must be bytes."""
    for chunk in chunks:
        if isinstance(chunk, str):
            yield chunk.encode()
            continue
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise ReturnError(f"the function yielded {type(chunk).__name__}; it must yield bytes")
        yield bytes(chunk)


def seed_all(seed: int) -> None:
    """Seed `random` and, where they are loaded, numpy's and torch's generators."""
    random.seed(seed)
    numpy_seed = getattr(sys.modules.get("numpy.random"), "seed", None)
    if numpy_seed is not None:
        numpy_seed([seed & 0xFFFFFFFF, seed >> 32])
    # Not torch.manual_seed, which queues a call for GPUs each time.
    generator = getattr(sys.modules.get("torch"), "default_generator", None)
    if generator is not None:
        generator.manual_seed(seed)


def dict_of(sample: Sample) -> dict[str, object]:
    """Return what a function is given."""
    given: dict[str, object] = {"__key__": sample.key, "__seed__": sample.seed}
    given.update(sample.fields)
    return given


def sample_of(key: str, result: object) -> Sample:
    """Return what a function has returned for a sample."""
    if not isinstance(result, dict):
        raise ReturnError(
            f"the function returned {type(result).__name__}; it must return a dict of fields "
            "(name -> bytes, str, int, float, bool, numpy array)"
        )
    fields = {name: value for name, value in result.items() if name not in ("__key__", "__seed__")}
    return Sample(key_of(key, result.get("__key__", key)), fields=fields)


def key_of(key: str, returned: object) -> str:
    """Check the key that a function has returned; empty means that it is unchanged."""
    if returned == key:
        return ""
    if not isinstance(returned, str):
        raise ReturnError(
            f"the function returned {type(returned).__name__} for '__key__'; it must be str"
        )
    if (
        not returned
        or len(returned.encode("utf-8", "replace")) > MAX_KEY
        or "\0" in returned
        or returned[0] == "/"
        or ".." in returned.split("/")
    ):
        raise ReturnError(
            f"the function returned the key {returned[:80]!r}, which can't name a sample"
        )
    return returned


class Rows:
    """The columns that a batch function has returned, one row for each sample."""

    def __init__(self, result: object, count: int) -> None:
        """Check the columns, and encode those that are arrays."""
        if not isinstance(result, dict):
            raise ReturnError(
                f"the function returned {type(result).__name__}; a batch function returns a dict "
                "of columns (name -> array or list with one row for each sample)"
            )
        self.keys: Any = result.get("__key__")
        self.lists: dict[str, Any] = {}
        self.arrays: dict[str, tuple[int, tuple[int, ...], memoryview, int]] = {}
        if self.keys is not None:
            self.check("__key__", len(self.keys), count)
        for name, column in result.items():
            if name in ("__key__", "__seed__"):
                continue
            name_of(name)
            if isinstance(column, (list, tuple)):
                self.check(name, len(column), count)
                self.lists[name] = column
                continue
            if isinstance(column, (bytes, bytearray, str, int, float)):
                raise ReturnError(
                    f"the function returned {type(column).__name__} for column {name!r}; "
                    "a column is an array or a list with one row for each sample"
                )
            dtype, shape, data = _values.encode_array(name, column)
            self.check(name, shape[0] if shape else 0, count)
            row = len(data) // count if count else 0
            self.arrays[name] = (dtype, shape[1:], memoryview(data), row)

    @staticmethod
    def check(name: str, rows: int, count: int) -> None:
        """Raise unless a column has a row for each sample."""
        if rows != count:
            raise ReturnError(
                f"the function returned {rows} rows for column {name!r}, {count} samples were given"
            )

    def row(self, number: int, key: str) -> list[Buffer]:
        """Encode one row as a sample."""
        described = b""
        payloads: list[Buffer] = []
        size = 0
        values = {name: _values.encode(name, column[number]) for name, column in self.lists.items()}
        for name, (dtype, shape, data, width) in self.arrays.items():
            values[name] = (dtype, shape, data[number * width : (number + 1) * width])
        for name, (dtype, shape, payload) in values.items():
            raw = name_of(name)
            described += FIELD.pack(len(raw), dtype, len(shape), len(payload))
            described += b"".join(n.to_bytes(8, "little") for n in shape) + raw
            payloads.append(payload)
            size += len(payload)
        new = "" if self.keys is None else key_of(key, self.keys[number])
        return seal(new, 0, len(values), described, payloads, size)


def fault_of(error: BaseException) -> Fault:
    """Say what an exception is, with the frames of user code only."""
    if isinstance(error, ReturnError):
        return Fault(f"TypeError: {error}")
    told = traceback.TracebackException.from_exception(error)
    _forget_own_frames(told)
    summary = "".join(told.format_exception_only()).strip().split("\n", 1)[0]
    full = "".join(told.format()).rstrip()
    if len(full) > 16 << 10:
        full = full[: 8 << 10] + "\n  ...\n" + full[-(8 << 10) :]
    return Fault(summary[:2000], full)


def _forget_own_frames(told: traceback.TracebackException) -> None:
    seen: set[int] = set()
    while told is not None and id(told) not in seen:
        seen.add(id(told))
        kept = [f for f in told.stack if os.path.dirname(os.path.abspath(f.filename)) != HERE]
        told.stack = traceback.StackSummary.from_list(kept)
        following = told.__cause__ or told.__context__
        if following is None:
            return
        told = following

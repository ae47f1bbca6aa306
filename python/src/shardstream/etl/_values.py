"""What a field holds: Python's values to and from (type, shape, bytes).

The rules are those of functions that run on the targets (`etl/worker/worker.py`): a function does
the same in a container as there. numpy is used where it is installed, and not needed otherwise.
"""

from __future__ import annotations

import importlib
import struct
import sys
from typing import Any, TypeAlias

BYTES, BOOL, INT64, FLOAT64, TEXT = 0, 1, 9, 12, 13
SIGNED = {1: 3, 2: 5, 4: 7, 8: 9}
UNSIGNED = {1: 2, 2: 4, 4: 6, 8: 8}
FLOATS = {2: 10, 4: 11, 8: 12}
SIZES = (1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, 1)
NUMPY_NAMES = ("", "?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
FORMATS = ("", "?", "B", "b", "H", "h", "I", "i", "Q", "q", "e", "f", "d")

MAX_DIMS = 8
ALLOWED = "allowed are bytes, str, int, float, bool and numpy arrays or scalars"

Buffer: TypeAlias = "bytes | memoryview"
Encoded: TypeAlias = "tuple[int, tuple[int, ...], Buffer]"


class ReturnError(TypeError):
    """The function returned something that can't travel."""


def decode(dtype: int, shape: tuple[int, ...], data: bytes) -> object:
    """Return what a function is given: bytes, str, a number or an array.

    An array is numpy's where numpy is installed, else a memoryview of that shape.
    """
    if dtype == BYTES:
        return data
    if dtype == TEXT:
        return data.decode("utf-8", "replace")
    if not shape:
        return struct.unpack("<" + FORMATS[dtype], data)[0]
    try:
        numpy = importlib.import_module("numpy")
    except ModuleNotFoundError:
        if 0 in shape or sys.byteorder != "little":
            raise
        return memoryview(data).cast("B").cast(FORMATS[dtype], shape)  # type: ignore[call-overload]
    return numpy.frombuffer(data, NUMPY_NAMES[dtype]).reshape(shape)


def encode(name: str, value: object) -> Encoded:
    """Return (type, shape, bytes) of what a function has returned for a field."""
    kind = type(value)
    if kind is bytes:
        return BYTES, (), value  # type: ignore[return-value]
    if isinstance(value, str):
        try:
            return TEXT, (), value.encode()
        except UnicodeEncodeError as error:
            raise ReturnError(
                f"the function returned a str that is not valid Unicode for field {name!r}: {error}"
            ) from None
    if kind is bool:
        return BOOL, (), b"\x01" if value else b"\x00"
    if isinstance(value, int):
        try:
            return INT64, (), int(value).to_bytes(8, "little", signed=True)
        except OverflowError:
            raise ReturnError(
                f"the function returned an int beyond 64 bits for field {name!r}; "
                "return numpy.uint64 or str"
            ) from None
    if isinstance(value, float):
        return FLOAT64, (), struct.pack("<d", value)
    if isinstance(value, (bytes, bytearray)) or (
        isinstance(value, memoryview) and value.format == "B"
    ):
        return BYTES, (), bytes(value)
    return encode_array(name, value)


def encode_array(name: str, value: object) -> Encoded:
    """Encode what lays its elements open: numpy arrays and scalars, array.array, tensors."""
    view = _view(name, value)
    code = None if view is None else _code(view)
    if view is None or code is None:
        raise _refusal(name, value)
    shape = tuple(view.shape or ())
    if len(shape) > MAX_DIMS:
        raise ReturnError(
            f"the function returned an array of {len(shape)} dimensions for field {name!r}; "
            f"{MAX_DIMS} are allowed"
        )
    if not view.c_contiguous or 0 in shape:
        return code, shape, view.tobytes()
    return code, shape, view.cast("B")


def _view(name: str, value: object) -> memoryview | None:
    """The elements of value, little-endian; None where it has none."""
    exposed: Any = value
    view: memoryview | None
    try:
        view = memoryview(exposed)
    except (TypeError, ValueError, BufferError):
        view = None
    if view is None and (hasattr(value, "__array_interface__") or hasattr(value, "__array__")):
        try:
            exposed = importlib.import_module("numpy").asarray(value)
            view = memoryview(exposed)
        except ModuleNotFoundError:
            raise ReturnError(
                f"the function returned {type(value).__name__} for field {name!r}, "
                f"which needs numpy in {sys.executable}"
            ) from None
        except (TypeError, ValueError, BufferError):
            return None
    if view is not None and view.format[:1] in (">", "!"):
        try:
            view = memoryview(exposed.astype(exposed.dtype.newbyteorder("<")))
        except AttributeError:
            return None
    return view


def _code(view: memoryview) -> int | None:
    """The type of a buffer's elements; None where there is none."""
    letter = view.format.lstrip("@=<")
    if letter == "?":
        return BOOL
    if letter in ("b", "h", "i", "l", "q", "n"):
        return SIGNED.get(view.itemsize)
    if letter in ("B", "H", "I", "L", "Q", "N"):
        return UNSIGNED.get(view.itemsize)
    if letter in ("e", "f", "d"):
        return FLOATS.get(view.itemsize)
    return None


def _refusal(name: str, value: object) -> ReturnError:
    """Say what was returned for a field and what may be."""
    kind = type(value)
    told = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        told += f" of dtype {dtype}"
    hint = "; use numpy.asarray(...)" if isinstance(value, (list, tuple)) else ""
    return ReturnError(f"the function returned {told} for field {name!r}; {ALLOWED}{hint}")

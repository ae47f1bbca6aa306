"""Values on their way between Python and the node."""

from __future__ import annotations

import importlib
import struct
import sys
from typing import Any, NamedTuple

from .frames import MAX_DIMS, ReturnError

BYTES, BOOL, INT64, FLOAT64, TEXT = 0, 1, 9, 12, 13
_SIGNED = {1: 3, 2: 5, 4: 7, 8: 9}
_UNSIGNED = {1: 2, 2: 4, 4: 6, 8: 8}
_FLOATS = {2: 10, 4: 11, 8: 12}
_NUMPY_NAMES = ("", "?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
_STRUCT_NAMES = ("", "?", "B", "b", "<H", "<h", "<I", "<i", "<Q", "<q", "<e", "<f", "<d")
_ALLOWED = "allowed are bytes, str, int, float, bool and numpy arrays or scalars"

#: What holds a value's bytes: bytes, or a flat memoryview of memory that user code may change.
Buffer = Any
Encoded = tuple[int, tuple[int, ...], Buffer]


class Typed(NamedTuple):
    """A field that is not plain bytes: what an earlier function of a chain returned."""

    dtype: int
    shape: tuple[int, ...]
    data: bytes

    def decode(self) -> object:
        """Return what user code gets: str, a Python number or a numpy array."""
        if self.dtype == TEXT:
            return self.data.decode("utf-8", "replace")
        if not self.shape:
            return struct.unpack(_STRUCT_NAMES[self.dtype], self.data)[0]
        numpy = importlib.import_module("numpy")
        return numpy.frombuffer(self.data, _NUMPY_NAMES[self.dtype]).reshape(self.shape)


def _buffer_type(view: memoryview) -> int | None:
    """Return the dtype code of a buffer's elements, None where there is none."""
    letter = view.format.lstrip("@=<")
    if letter == "?":
        return BOOL
    if letter in ("b", "h", "i", "l", "q", "n"):
        return _SIGNED.get(view.itemsize)
    if letter in ("B", "H", "I", "L", "Q", "N"):
        return _UNSIGNED.get(view.itemsize)
    if letter in ("e", "f", "d"):
        return _FLOATS.get(view.itemsize)
    return None


def refuse(name: str, value: object) -> ReturnError:
    """Say what was returned for a field and what may be."""
    kind = type(value)
    told = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        told += f" of dtype {dtype}"
    hint = "; use numpy.asarray(...)" if isinstance(value, (list, tuple)) else ""
    return ReturnError(f"the function returned {told} for field {name!r}; {_ALLOWED}{hint}")


def encode_array(name: str, value: object) -> Encoded:
    """Encode what lays its elements open: numpy arrays and scalars, array.array, tensors."""
    view: memoryview | None
    exposed: Any = value
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
            view = None
    if view is not None and view.format[:1] in (">", "!"):
        try:
            exposed = exposed.astype(exposed.dtype.newbyteorder("<"))
            view = memoryview(exposed)
        except AttributeError:
            view = None
    code = None if view is None else _buffer_type(view)
    if view is None or code is None:
        raise refuse(name, value)
    shape = view.shape or ()
    if len(shape) > MAX_DIMS:
        raise ReturnError(
            f"the function returned an array of {len(shape)} dimensions for field {name!r}; "
            f"{MAX_DIMS} are allowed"
        )
    return code, shape, _flat(view, exposed)


def _flat(view: memoryview, exposed: Any) -> Buffer:
    """The elements in C order, where they are if they lie so."""
    if view.nbytes == 0 or view.ndim == 0:
        return view.tobytes()
    if view.c_contiguous:
        return view.cast("B")
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(exposed, "__array_interface__"):
        return memoryview(numpy.ascontiguousarray(exposed)).cast("B")
    return view.tobytes()


def encode_value(name: str, value: object) -> Encoded:
    """Return (dtype, shape, buffer)."""
    kind = type(value)
    if kind is bytes:
        return BYTES, (), value
    if isinstance(value, str):
        try:
            return TEXT, (), value.encode()
        except UnicodeEncodeError as e:
            raise ReturnError(
                f"the function returned a str that is not valid Unicode for field {name!r}: {e}"
            ) from None
    if kind is bool:
        return BOOL, (), b"\x01" if value else b"\x00"
    if kind is int:
        try:
            return INT64, (), value.to_bytes(8, "little", signed=True)  # type: ignore[attr-defined]
        except OverflowError:
            raise ReturnError(
                f"the function returned an int beyond 64 bits for field {name!r}; "
                "return numpy.uint64 or str"
            ) from None
    if isinstance(value, float):
        return FLOAT64, (), struct.pack("<d", value)
    if isinstance(value, (bytes, bytearray)):
        return BYTES, (), memoryview(value)
    if isinstance(value, memoryview) and value.format == "B" and value.ndim == 1:
        return BYTES, (), value if value.c_contiguous else value.tobytes()
    if isinstance(value, int):  # IntEnum and other subclasses
        return encode_value(name, int(value))
    return encode_array(name, value)

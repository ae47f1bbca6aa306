"""A worker of an ETL pool: loads one user function and applies it to samples.

The node starts this file as ``python3 worker.py``. File descriptor 3 is a stream socket to the
node, 4 a shared page whose first word names the sample in hand. Stdout and stderr belong to user
code and end in the log. Only the standard library is used; numpy stays unloaded unless user code
loads it.

Frames in both directions are little-endian: a fixed head, a description (key, fields), then the
fields' bytes. ``etl/frame.go`` is the other side and the text of record.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import json
import linecache
import mmap
import os
import random
import re
import resource
import struct
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, NamedTuple

SOCKET_FD = 3
STATUS_FD = 4

REQUEST_HEAD = struct.Struct("<4sBBHQQIIQ")  # magic kind flags fields seq seed meta key data
RESULT_HEAD = struct.Struct("<4sBBHQIIQ")  # magic kind flags fields seq meta key data
FIELD_HEAD = struct.Struct("<HBBQ")  # name, dtype, dimensions, bytes
REQUEST_MAGIC = b"SSQ1"
RESULT_MAGIC = b"SSR1"

REQUEST_INIT, REQUEST_SAMPLE, REQUEST_OBJECT = 1, 2, 3
RESULT_READY, RESULT_BROKEN, RESULT_SAMPLE, RESULT_ERROR = 1, 2, 3, 4
FLAG_FLUSH = 1

BYTES, BOOL, INT64, FLOAT64, TEXT = 0, 1, 9, 12, 13
SIGNED = {1: 3, 2: 5, 4: 7, 8: 9}
UNSIGNED = {1: 2, 2: 4, 4: 6, 8: 8}
FLOATS = {2: 10, 4: 11, 8: 12}
NUMPY_NAMES = ("", "?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
STRUCT_NAMES = ("", "?", "B", "b", "<H", "<h", "<I", "<i", "<Q", "<q", "<e", "<f", "<d")

MAX_DIMS = 8
MAX_FIELDS = 4096
MAX_NAME = 1000
MAX_KEY = 4096
MAX_ERROR = 16 << 10
# Smaller arrays are copied and sent later, larger ones are sent at once from where they are.
COPY_BELOW = 32 << 10
SEND_ABOVE = 256 << 10
MAX_IOV = 512
MODULE = "shardstream_etl"  # the name under which user code is loaded
ALLOWED = "allowed are bytes, str, int, float, bool and numpy arrays or scalars"

Buffer = Any  # bytes or a flat memoryview

forked = False


def after_fork_in_child() -> None:
    """Keep a child that user code forks away from the node's socket."""
    global forked
    forked = True
    os.close(SOCKET_FD)


class ReturnError(TypeError):
    """The function returned something that can't travel."""


class BrokenError(Exception):
    """The definition can't be loaded; the text goes to the user as it is."""


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
            return struct.unpack(STRUCT_NAMES[self.dtype], self.data)[0]
        numpy = importlib.import_module("numpy")
        return numpy.frombuffer(self.data, NUMPY_NAMES[self.dtype]).reshape(self.shape)


class _Output:
    """Results on their way out: small ones are gathered, so that a crossing carries many."""

    def __init__(self) -> None:
        self.pending: list[Buffer] = []
        self.size = 0

    def add(self, parts: list[Buffer], size: int) -> None:
        self.pending += parts
        self.size += size

    def flush(self) -> None:
        parts, self.pending, self.size = self.pending, [], 0
        at = 0
        while at < len(parts):
            sent = os.writev(SOCKET_FD, parts[at : at + MAX_IOV])
            while sent > 0 or (at < len(parts) and len(parts[at]) == 0):
                size = len(parts[at])
                if sent < size:
                    parts[at] = memoryview(parts[at])[sent:]
                    break
                sent -= size
                at += 1


def buffer_type(view: memoryview) -> int | None:
    """Return the dtype code of a buffer's elements, None where there is none."""
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


def refuse(name: str, value: object) -> ReturnError:
    """Say what was returned for a field and what may be."""
    kind = type(value)
    told = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        told += f" of dtype {dtype}"
    hint = "; use numpy.asarray(...)" if isinstance(value, (list, tuple)) else ""
    return ReturnError(f"the function returned {told} for field {name!r}; {ALLOWED}{hint}")


def encode_array(name: str, value: object) -> tuple[int, tuple[int, ...], Buffer, bool]:
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
            view = memoryview(exposed.astype(exposed.dtype.newbyteorder("<")))
        except AttributeError:
            view = None
    code = None if view is None else buffer_type(view)
    if view is None or code is None:
        raise refuse(name, value)
    shape = view.shape or ()
    if len(shape) > MAX_DIMS:
        raise ReturnError(
            f"the function returned an array of {len(shape)} dimensions for field {name!r}; "
            f"{MAX_DIMS} are allowed"
        )
    if view.nbytes < COPY_BELOW or not view.c_contiguous:
        return code, shape, view.tobytes(), False
    return code, shape, view.cast("B"), True


def encode_value(name: str, value: object) -> tuple[int, tuple[int, ...], Buffer, bool]:
    """Return (dtype, shape, buffer, borrowed).

    Borrowed memory must be sent before user code runs again.
    """
    kind = type(value)
    if kind is bytes:
        return BYTES, (), value, False
    if isinstance(value, str):
        try:
            return TEXT, (), value.encode(), False
        except UnicodeEncodeError as e:
            raise ReturnError(
                f"the function returned a str that is not valid Unicode for field {name!r}: {e}"
            ) from None
    if kind is bool:
        return BOOL, (), b"\x01" if value else b"\x00", False
    if kind is int:
        try:
            return INT64, (), value.to_bytes(8, "little", signed=True), False  # type: ignore[attr-defined]
        except OverflowError:
            raise ReturnError(
                f"the function returned an int beyond 64 bits for field {name!r}; "
                "return numpy.uint64 or str"
            ) from None
    if isinstance(value, float):
        return FLOAT64, (), struct.pack("<d", value), False
    if isinstance(value, (bytes, bytearray)) or (
        isinstance(value, memoryview) and value.format == "B"
    ):
        return BYTES, (), bytes(value), False
    if isinstance(value, int):  # IntEnum and other subclasses
        return encode_value(name, int(value))
    return encode_array(name, value)


def encode_sample(seq: int, key: str, result: object, limit: int) -> tuple[list[Buffer], int, bool]:
    """Encode a returned dict as a frame: (buffers, payload bytes, borrowed)."""
    if not isinstance(result, dict):
        raise ReturnError(
            f"the function returned {type(result).__name__}; it must return a dict of fields "
            "(name -> bytes, str, int, float, bool, numpy array)"
        )
    new_key = b""
    meta: list[bytes] = []
    data: list[Buffer] = []
    size, count, borrowed = 0, 0, False
    for name, value in result.items():
        if not isinstance(name, str):
            raise ReturnError(
                f"the function returned a dict with the key {name!r} ({type(name).__name__}); "
                "keys must be str"
            )
        if name[:2] == "__":
            if name != "__key__":
                raise ReturnError(
                    f"the function returned a field {name!r}; names that begin with __ are reserved"
                )
            if value != key:
                new_key = check_key(value)
            continue
        raw = name.encode("utf-8", "replace")
        if not raw or len(raw) > MAX_NAME or "/" in name or "\0" in name:
            raise ReturnError(
                f"the function returned a field named {name[:80]!r}; "
                f"use 1 to {MAX_NAME} bytes, no / and no NUL"
            )
        code, shape, buffer, lent = encode_value(name, value)
        length = len(buffer)
        meta.append(FIELD_HEAD.pack(len(raw), code, len(shape), length))
        if shape:
            meta.append(struct.pack(f"<{len(shape)}q", *shape))
        meta.append(raw)
        if length:
            data.append(buffer)
        size += length
        count += 1
        borrowed = borrowed or lent
    if count > MAX_FIELDS:
        raise ReturnError(f"the function returned {count} fields; {MAX_FIELDS} are allowed")
    if size > limit:
        raise ReturnError(f"the function returned {size} bytes for one sample; {limit} are allowed (--max-output)")
    described = b"".join(meta)
    head = RESULT_HEAD.pack(
        RESULT_MAGIC, RESULT_SAMPLE, 0, count, seq, len(described), len(new_key), size
    )
    if size - len(data) < COPY_BELOW and not borrowed:
        return [b"".join((head, new_key, described, *data))], size, False
    return [head + new_key + described, *data], size, borrowed


def check_key(value: object) -> bytes:
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


def encode_object(seq: int, result: object, limit: int) -> tuple[list[Buffer], int, bool]:
    """Encode what an object-level function returned."""
    if isinstance(result, str):
        result = result.encode()
    if not isinstance(result, (bytes, bytearray, memoryview)):
        raise ReturnError(
            f"the function returned {type(result).__name__}; "
            "an object-level function must return bytes"
        )
    data = bytes(result)
    if len(data) > limit:
        raise ReturnError(f"the function returned {len(data)} bytes; {limit} are allowed (--max-output)")
    described = FIELD_HEAD.pack(4, BYTES, 0, len(data)) + b"data"
    head = RESULT_HEAD.pack(RESULT_MAGIC, RESULT_SAMPLE, 0, 1, seq, len(described), 0, len(data))
    return [head + described, data] if data else [head + described], len(data), False


def describe(exc: BaseException) -> tuple[str, str]:
    """Return a summary line and the traceback without the worker's own frames."""
    kind = type(exc)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", __name__, MODULE):
        name = f"{kind.__module__}.{name}"
    if isinstance(exc, ReturnError):
        return f"TypeError: {exc}", ""
    if isinstance(exc, BrokenError):
        return str(exc), ""
    try:
        text = str(exc)
    except Exception:  # user code may do anything in __str__
        text = "<unprintable>"
    summary = f"{name}: {text}" if text else name
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    try:
        full = "".join(
            traceback.TracebackException(kind, exc, frames, compact=True).format()
        ).rstrip()
    except Exception:
        full = summary
    if len(full) > MAX_ERROR:
        full = full[: MAX_ERROR // 2] + "\n  ...\n" + full[-MAX_ERROR // 2 :]
    return summary.split("\n", 1)[0][:2000], full


def encode_error(kind: int, seq: int, exc: BaseException) -> bytes:
    """Encode an exception as a frame; the key length stands for the summary's."""
    summary, full = describe(exc)
    first = summary.encode("utf-8", "replace")
    rest = full.encode("utf-8", "replace")
    return RESULT_HEAD.pack(RESULT_MAGIC, kind, 0, 0, seq, len(rest), len(first), 0) + first + rest


def check_requirement(requirement: str) -> None:
    """Raise BrokenError unless the requirement is installed here."""
    where = f"{sys.executable} (Python {sys.version.split()[0]})"
    remedy = (
        f"install it there ({sys.executable} -m pip install {requirement!r}) "
        "or start the node with SHARDSTREAM_PYTHON naming a Python that has it"
    )
    parsed: Any = None
    try:
        requirements = importlib.import_module("packaging.requirements")
        try:
            parsed = requirements.Requirement(requirement)
        except requirements.InvalidRequirement as e:
            raise BrokenError(f"requirement {requirement!r} can't be understood: {e}") from None
        name = parsed.name
        if parsed.marker is not None and not parsed.marker.evaluate():
            return
    except ModuleNotFoundError:
        match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
        if match is None:
            raise BrokenError(
                f"requirement {requirement!r} does not begin with a package's name"
            ) from None
        name = match.group(1)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            raise BrokenError(
                f"requirement {requirement!r}: {name} is not installed in {where}; {remedy}"
            ) from None
        return
    if parsed is not None and not parsed.specifier.contains(version, prereleases=True):
        raise BrokenError(f"requirement {requirement!r}: {where} has {name} {version}; {remedy}")


def load(definition: dict[str, Any]) -> Callable[[Any], object]:
    """Execute the source and return its entry function."""
    for requirement in definition["requirements"]:
        check_requirement(requirement)
    name, source, entry = definition["name"], definition["source"], definition["entry"]
    filename = f"{name}.py"
    # With no time stamp, linecache never looks for the file: tracebacks show the user's lines.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType(MODULE)
    module.__file__ = filename
    sys.modules[module.__name__] = module
    exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)
    function = getattr(module, entry, None)
    if function is None:
        there = [
            n
            for n, v in vars(module).items()
            if inspect.isfunction(v) and v.__module__ == module.__name__
        ]
        found = f"it defines {', '.join(there[:20])}" if there else "it defines no function"
        raise BrokenError(f"NameError: {filename} has no function {entry!r}; {found}")
    if not callable(function):
        raise BrokenError(
            f"TypeError: {entry!r} in {filename} is {type(function).__name__}, not a function"
        )
    if inspect.iscoroutinefunction(function):
        raise BrokenError(f"TypeError: {entry!r} in {filename} is async; define it with plain def")
    try:
        inspect.signature(function).bind(None)
    except TypeError as e:
        raise BrokenError(
            f"TypeError: {entry!r} in {filename} must take one argument: {e}"
        ) from None
    except ValueError:
        pass  # a builtin without a signature
    return function  # type: ignore[no-any-return]


def seed_all(seed: int) -> bool:
    """Seed the generators that are loaded; True if numpy's was among them."""
    random.seed(seed)
    numpy_seed = getattr(sys.modules.get("numpy.random"), "seed", None)
    if numpy_seed is None:
        return False
    numpy_seed([seed & 0xFFFFFFFF, seed >> 32])
    return True


def call(function: Callable[[Any], object], make: Callable[[], object], seed: int) -> object:
    """Call the function with what make builds."""
    if not seed:
        return function(make())
    seeded = seed_all(seed)
    result = function(make())
    if not seeded and "numpy.random" in sys.modules:
        # The first call has loaded numpy, which was not seeded then: do it again, so that the
        # first sample of a process is no exception.
        seed_all(seed)
        result = function(make())
    return result


class _Worker:
    """Reads samples, applies the function, writes results."""

    def __init__(self) -> None:
        self.reader = io.BufferedReader(io.FileIO(SOCKET_FD, "rb", closefd=False), 16 << 10)
        self.output = _Output()
        self.status = memoryview(mmap.mmap(STATUS_FD, mmap.PAGESIZE)).cast("Q")
        os.close(STATUS_FD)
        self.limit = 0

    def exactly(self, n: int) -> bytes:
        data = self.reader.read(n)
        if len(data) != n:
            os._exit(0)  # the node is gone
        return data

    def run(self) -> None:
        function: Callable[[Any], object] | None = None
        while True:
            head = self.reader.read(REQUEST_HEAD.size)
            if len(head) < REQUEST_HEAD.size:
                os._exit(0)
            magic, kind, flags, fields, seq, seed, meta_len, key_len, data_len = (
                REQUEST_HEAD.unpack(head)
            )
            if magic != REQUEST_MAGIC:
                raise SystemExit("frame out of step")
            key = self.exactly(key_len).decode("utf-8", "surrogateescape")
            meta = self.exactly(meta_len)
            if kind == REQUEST_INIT:
                function = self.init(json.loads(self.exactly(data_len)))
                continue
            if function is None:
                raise SystemExit("sample before a definition")
            if kind == REQUEST_SAMPLE:
                self.sample(function, seq, seed, key, self.fields(fields, meta))
            else:
                self.whole(function, seq, seed, self.exactly(data_len))
            if flags & FLAG_FLUSH or self.output.size > SEND_ABOVE:
                self.output.flush()

    def init(self, definition: dict[str, Any]) -> Callable[[Any], object] | None:
        self.limit = definition["max_sample"]
        function = None
        try:
            function = load(definition)
            frame = RESULT_HEAD.pack(RESULT_MAGIC, RESULT_READY, 0, 0, 0, 0, 0, 0)
        except BaseException as e:
            frame = encode_error(RESULT_BROKEN, 0, e)
        self.quiet()
        gc.collect()
        gc.freeze()
        self.output.add([frame], len(frame))
        self.output.flush()
        return function

    def fields(self, count: int, meta: bytes) -> list[tuple[str, object]]:
        """Read the fields of a sample, each straight into an object of its own."""
        out: list[tuple[str, object]] = []
        at = 0
        for _ in range(count):
            name_len, dtype, ndim, size = FIELD_HEAD.unpack_from(meta, at)
            at += FIELD_HEAD.size
            shape = struct.unpack_from(f"<{ndim}q", meta, at) if ndim else ()
            at += 8 * ndim
            name = meta[at : at + name_len].decode("utf-8", "surrogateescape")
            at += name_len
            data = self.exactly(size)
            out.append((name, data if dtype == BYTES else Typed(dtype, shape, data)))
        return out

    def sample(
        self,
        function: Callable[[Any], object],
        seq: int,
        seed: int,
        key: str,
        fields: list[tuple[str, object]],
    ) -> None:
        def make() -> dict[str, object]:
            made: dict[str, object] = {"__key__": key}
            made.update(fields)
            for name, value in fields:
                if type(value) is Typed:
                    made[name] = value.decode()
            return made

        self.status[0] = seq
        try:
            result = call(function, make, seed)
            parts, size, borrowed = encode_sample(seq, key, result, self.limit)
        except BaseException as e:
            parts, size, borrowed = [encode_error(RESULT_ERROR, seq, e)], 0, False
        self.finish(parts, size, borrowed)

    def whole(self, function: Callable[[Any], object], seq: int, seed: int, data: bytes) -> None:
        self.status[0] = seq
        try:
            parts, size, borrowed = encode_object(
                seq, call(function, lambda: data, seed), self.limit
            )
        except BaseException as e:
            parts, size, borrowed = [encode_error(RESULT_ERROR, seq, e)], 0, False
        self.finish(parts, size, borrowed)

    def finish(self, parts: list[Buffer], size: int, borrowed: bool) -> None:
        if forked:  # user code forked, and this is the child: it has no business here
            os._exit(0)
        self.quiet()
        self.output.add(parts, size + 64)
        if borrowed:
            self.output.flush()
        self.status[0] = 0

    def quiet(self) -> None:
        """Send what user code has printed; it may have closed or replaced the streams."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                continue


def main() -> None:
    """Set the process up and serve until the node closes the socket."""
    sys.path[:] = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))]
    sys.argv = [sys.argv[0]]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    worker = _Worker()
    os.closerange(STATUS_FD, 4096)
    os.set_inheritable(SOCKET_FD, False)
    os.register_at_fork(after_in_child=after_fork_in_child)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    worker.run()


if __name__ == "__main__":
    main()

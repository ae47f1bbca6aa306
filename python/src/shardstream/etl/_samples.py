"""How samples travel over HTTP between a node and an ETL server.

The Go package `etl/samples` is the other side, and its doc comment the text of record: a message
is a magic, items one after another, and an end mark that counts them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ._values import BYTES, MAX_DIMS, SIZES, TEXT, Buffer, ReturnError, decode, encode

CONTENT_TYPE = "application/x-shardstream-samples"
MAGIC = b"SSB1"
HEAD = struct.Struct("<BBHIIIQQ")  # kind 0 fields description key 0 seed payload
FIELD = struct.Struct("<HBBQ")  # name type dimensions bytes
SAMPLE, FAULT, END = 1, 2, 3

MAX_FIELDS = 4096
MAX_KEY = 64 << 10
MAX_DESCRIPTION = 8 << 20
MAX_TRACEBACK = 64 << 10
MAX_NAME = 1000
TRUSTED = 1 << 20  # bytes for which memory is taken before they have come


class MalformedError(ValueError):
    """A message that can't be read."""


class Readable(Protocol):
    """What a message is read from."""

    def read(self, size: int, /) -> bytes:
        """Return up to size bytes; b"" at the end."""


@dataclass
class Sample:
    """A sample as it travels: values by field, in order."""

    key: str
    seed: int = 0
    fields: dict[str, object] = field(default_factory=dict)


@dataclass
class Fault:
    """Why there is no sample."""

    summary: str
    traceback: str = ""


def read_message(
    stream: Readable, *, max_samples: int = 0, max_payload: int = 0
) -> Iterator[Sample | Fault]:
    """Read a message to its end; MalformedError where it is cut off or makes no sense."""
    if _exactly(stream, len(MAGIC)) != MAGIC:
        raise MalformedError(f"the body does not begin with {MAGIC.decode()}: not samples")
    count = 0
    while True:
        kind, flags, fields, described, key_len, more, seed, payload = HEAD.unpack(
            _exactly(stream, HEAD.size)
        )
        if flags or more:
            raise MalformedError("an item has flags that this version does not know")
        if kind == END:
            if fields or described or key_len or payload or seed != count:
                raise MalformedError(f"the end mark counts {seed} samples, {count} were there")
            if stream.read(1):
                raise MalformedError("bytes follow the end mark")
            return
        if kind not in (SAMPLE, FAULT):
            raise MalformedError(f"an item of kind {kind}")
        if fields > MAX_FIELDS or described > MAX_DESCRIPTION or key_len > MAX_KEY:
            raise MalformedError(f"{fields} fields described in {described} bytes, key {key_len}")
        if payload > (max_payload or 1 << 62):
            raise MalformedError(f"a sample of {payload} bytes where {max_payload} are allowed")
        count += 1
        if max_samples and count > max_samples:
            raise MalformedError(f"more than the {max_samples} samples that are allowed")
        key = _exactly(stream, key_len).decode("utf-8", "surrogateescape")
        description = _exactly(stream, described)
        if kind == FAULT:
            yield Fault(key, description.decode("utf-8", "replace"))
        else:
            yield Sample(key, seed, _fields(stream, fields, description, payload))


def _fields(stream: Readable, count: int, description: bytes, payload: int) -> dict[str, object]:
    """Read the fields of a sample, whose payloads follow their description."""
    found: list[tuple[str, int, tuple[int, ...], int]] = []
    at = 0
    for _ in range(count):
        if len(description) - at < FIELD.size:
            raise MalformedError("a description ends early")
        name_len, dtype, dims, size = FIELD.unpack_from(description, at)
        at += FIELD.size
        if dtype > TEXT or dims > MAX_DIMS:
            raise MalformedError(f"a field of type {dtype} with {dims} dimensions")
        if len(description) - at < 8 * dims + name_len:
            raise MalformedError("a description ends early")
        shape = struct.unpack_from(f"<{dims}q", description, at)
        at += 8 * dims
        name = description[at : at + name_len].decode("utf-8", "surrogateescape")
        at += name_len
        if size > payload or not _agree(dtype, shape, size):
            raise MalformedError(f"{size} bytes for a field of type {dtype} and shape {shape}")
        payload -= size
        found.append((name, dtype, shape, size))
    if at != len(description) or payload:
        raise MalformedError("more description or payload than the fields have")
    fields: dict[str, object] = {}
    for name, dtype, shape, size in found:
        if name in fields:
            raise MalformedError(f"two fields {name!r} in a sample")
        fields[name] = decode(dtype, shape, _exactly(stream, size))
    return fields


def _agree(dtype: int, shape: tuple[int, ...], size: int) -> bool:
    """Say whether a type and a shape belong to size bytes."""
    if dtype in (BYTES, TEXT):
        return not shape
    total = SIZES[dtype]
    for length in shape:
        if length < 0:
            return False
        total *= length
    return total == size


def _exactly(stream: Readable, size: int) -> bytes:
    """Read size bytes, taking memory as they come."""
    if not size:
        return b""
    data = stream.read(min(size, TRUSTED))
    if len(data) == size:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and data:
        data = stream.read(min(missing, TRUSTED))
        parts.append(data)
        missing -= len(data)
    if missing:
        raise MalformedError("the body ends in the middle of its samples")
    return b"".join(parts)


def encode_end(count: int) -> bytes:
    """Return the mark that ends a message of so many items."""
    return HEAD.pack(END, 0, 0, 0, 0, 0, count, 0)


def encode_fault(fault: Fault) -> bytes:
    """Encode why there is no sample."""
    first = fault.summary.encode("utf-8", "replace")[:MAX_KEY]
    rest = fault.traceback.encode("utf-8", "replace")[:MAX_TRACEBACK]
    return HEAD.pack(FAULT, 0, 0, len(rest), len(first), 0, 0, 0) + first + rest


def encode_sample(sample: Sample) -> list[Buffer]:
    """Encode a sample; ReturnError for what can't travel.

    Arrays are referred to, not copied: they must be sent before they change.
    """
    described: list[bytes] = []
    payloads: list[Buffer] = []
    size = 0
    for name, value in sample.fields.items():
        raw = name_of(name)
        dtype, shape, data = encode(name, value)
        described.append(FIELD.pack(len(raw), dtype, len(shape), len(data)))
        if shape:
            described.append(struct.pack(f"<{len(shape)}q", *shape))
        described.append(raw)
        if len(data):
            payloads.append(data)
        size += len(data)
    return seal(sample.key, sample.seed, len(sample.fields), b"".join(described), payloads, size)


def seal(
    key: str, seed: int, fields: int, described: bytes, payloads: list[Buffer], size: int
) -> list[Buffer]:
    """Put the head of a sample before its parts."""
    raw = key.encode("utf-8", "surrogateescape")
    if fields > MAX_FIELDS or len(described) > MAX_DESCRIPTION or len(raw) > MAX_KEY:
        raise ReturnError(
            f"the function returned {fields} fields and a key of {len(raw)} bytes; "
            f"{MAX_FIELDS} and {MAX_KEY} are allowed"
        )
    head = HEAD.pack(SAMPLE, 0, fields, len(described), len(raw), 0, seed, size)
    return [head + raw + described, *payloads]


def name_of(name: object) -> bytes:
    """Check the name of a field that a function has returned."""
    if not isinstance(name, str):
        raise ReturnError(
            f"the function returned a dict with the key {name!r} ({type(name).__name__}); "
            "keys must be str"
        )
    if name.startswith("__"):
        raise ReturnError(
            f"the function returned a field {name!r}; names that begin with __ are reserved"
        )
    raw = name.encode("utf-8", "surrogateescape")
    if not raw or len(raw) > MAX_NAME or "/" in name or "\0" in name:
        raise ReturnError(
            f"the function returned a field named {name[:80]!r}; "
            f"use 1 to {MAX_NAME} bytes, no / and no NUL"
        )
    return raw

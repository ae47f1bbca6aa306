"""What a dataset reads: addresses, patterns, and lists of objects."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

#: Before the address of an object that lists objects: a gateway reads it.
MANIFEST = "@"
#: Before an address in which ``*?[{`` are part of the name.
EXACT = "="

_MAX_BYTES = 64 << 20
_SHOWN = 3


def source_list(source: Any) -> tuple[str, ...]:
    """One source or several, as a tuple of addresses; local manifests are read here."""
    several = isinstance(source, Iterable) and not isinstance(source, (str, bytes, os.PathLike))
    sources: tuple[Any, ...] = tuple(source) if several else (source,)
    if not sources:
        raise ValueError("no source: give one or several, such as 'ss://bucket/train-*.tar'")
    return tuple(address for one in sources for address in _addresses(one))


def shown(sources: Sequence[str]) -> str:
    """The sources for a repr, long lists cut short."""
    if len(sources) == 1:
        return repr(sources[0])
    if len(sources) <= _SHOWN:
        return repr(list(sources))
    first = ", ".join(repr(address) for address in sources[:_SHOWN])
    return f"[{first}, ... {len(sources) - _SHOWN} more]"


def _addresses(source: Any) -> Iterable[str]:
    if isinstance(source, os.PathLike):
        return _read_manifest(Path(source))
    if not isinstance(source, str):
        raise TypeError(
            f"a source is a string such as 'ss://bucket/*.tar', or the Path of a list of objects, "
            f"not {source!r}"
        )
    address = source[1:] if source[:1] in (MANIFEST, EXACT) else source
    bucket, _, key = address.removeprefix("ss://").partition("/")
    if not address.startswith("ss://") or not bucket:
        hint = ": pass a local list of objects as a pathlib.Path" if Path(source).suffix else ""
        raise ValueError(f"source {source!r} does not read ss://bucket/key{hint}")
    if address is not source and (not key or key.endswith("/")):
        raise ValueError(f"source {source!r} names no object: {source[0]}ss://bucket/key")
    return (source,)


def _read_manifest(path: Path) -> Iterator[str]:
    """The objects that a local file lists, one address to a line or JSON with it as "url"."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"manifest {path} is larger than {_MAX_BYTES} bytes")
    count = 0
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        address = _entry(line.strip(), f"manifest {path}, line {number}")
        if address:
            count += 1
            yield EXACT + address
    if count == 0:
        raise ValueError(f"manifest {path} lists no objects")


def _entry(line: bytes, where: str) -> str:
    """The address on a line, "" where there is none."""
    if not line or line.startswith(b"#"):
        return ""
    try:
        address: Any = str(line, "utf-8")
        if line.startswith(b"{"):
            address = json.loads(address).get("url")
    except ValueError as error:
        raise ValueError(f"{where} can't be read: {error}") from None
    text = address if isinstance(address, str) else ""
    bucket, _, key = text.removeprefix("ss://").partition("/")
    if not text.startswith("ss://") or not bucket or not key or key.endswith("/"):
        raise ValueError(
            f"{where} is not the address of an object such as ss://bucket/train-0000.tar: "
            f"{str(line, 'utf-8', 'replace')[:200]!r}"
        )
    return text

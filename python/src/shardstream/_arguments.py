"""Checks of what a caller passed, with errors that say what was expected."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number from low to high; numpy's are fine, bool and float are not."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if number < low or (high is not None and number > high):
        bounds = f"{low} or more" if high is None else f"{low} to {high}"
        raise ValueError(f"{name} must be {bounds}, not {number}")
    return number


def rank_pair(rank: int | None, world_size: int | None) -> tuple[int | None, int | None]:
    """A rank and a world size that fit together, or None for both."""
    if rank is None and world_size is None:
        return None, None
    if rank is None or world_size is None:
        raise ValueError("rank and world_size are given together, or neither")
    world_size = integer("world_size", world_size, 1)
    rank = integer("rank", rank, 0)
    if rank >= world_size:
        raise ValueError(f"rank {rank} of a world of {world_size}: ranks are 0 to {world_size - 1}")
    return rank, world_size


def source_list(source: str | Sequence[str]) -> tuple[str, ...]:
    """One address or several, as a tuple."""
    sources = (source,) if isinstance(source, str) else tuple(source)
    if not sources:
        raise ValueError("no source: give one or several, such as 'ss://bucket/train-*.tar'")
    for address in sources:
        if not isinstance(address, str):
            raise TypeError(f"a source is a string such as 'ss://bucket/*.tar', not {address!r}")
        bucket = address.removeprefix("ss://").partition("/")[0]
        if not address.startswith("ss://") or not bucket:
            raise ValueError(f"source {address!r} does not read ss://bucket/key")
    return sources

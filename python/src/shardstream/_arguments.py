"""Checks of what a caller passed, with errors that say what was expected."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

_Value = TypeVar("_Value")

_LONGEST_S = 1e9  # some thirty years; more does not fit into Go's durations
_MAX_WORLD = 2**31 - 1
_MAX_COUNT = 2**63 - 1


def integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """A whole number within bounds; numpy's are fine, bool and float are not."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if low is not None and number < low:
        raise ValueError(f"{name} must be {low} or more, not {number}")
    if high is not None and number > high:
        raise ValueError(f"{name} must be {high} or less, not {number}")
    return number


def choice(name: str, value: _Value, allowed: Sequence[Any]) -> _Value:
    """One of a few values."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {tuple(allowed)}, not {value!r}")
    return value


def erasure_code(value: Any) -> dict[str, int]:
    """How objects are cut into slices: "4+2", a pair of numbers, or "none" for whole copies."""
    if value == "none":
        return {"data": 0, "parity": 0}
    parts: Sequence[Any] = ()
    if isinstance(value, str):
        parts = [int(part) if part.isdigit() else part for part in value.split("+")]
    elif isinstance(value, tuple | list):
        parts = value
    if len(parts) != 2 or any(isinstance(part, str) for part in parts):
        raise ValueError(f'ec must be like "4+2" (4 slices and 2 more) or "none", not {value!r}')
    return {
        "data": integer("ec's data", parts[0], 1),
        "parity": integer("ec's parity", parts[1], 1),
    }


def flag(name: str, value: Any) -> bool:
    """True or False; 1 and 0 are fine, other values are not."""
    if value not in (True, False):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def text(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    return value


def etl_names(value: Any) -> str | None:
    """The names of transformations, with commas between; a function is told how to get one."""
    if value is None or isinstance(value, str):
        return value or None
    if callable(value) or not isinstance(value, Sequence):
        raise TypeError(
            "etl is the name of a deployed transformation, or a list of them: deploy the function "
            "first, with Client().etl.create(name, function)"
        )
    return ",".join(names("etl", value)) or None


def etl_arguments(etl: str | None, value: Any) -> Any:
    """The arguments of transformations, copied: a dict, for several a list with one for each."""
    if value is None:
        return None
    if etl is None:
        raise ValueError(f"etl_args={value!r} without an etl that they are for")
    count = etl.count(",") + 1
    if not isinstance(value, Mapping):
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise TypeError(f'etl_args is a dict such as {{"size": 224}}, not {value!r}')
        if len(value) != count:
            raise ValueError(
                f"etl_args has {len(value)} entries for {count} transformations ({etl}): give a "
                "dict, or None, for each"
            )
        return [None if one is None else json_object("etl_args", one) for one in value]
    if count > 1:
        raise TypeError(
            f"etl names {count} transformations ({etl}): etl_args is then a list with a dict, or "
            "None, for each"
        )
    return json_object("etl_args", value)


def json_object(name: str, value: Any) -> dict[str, Any]:
    """A dict from names to what JSON can say."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} takes dicts from names to values, not {value!r}")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} takes dicts from names to values; {key!r} is no name")
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be plain JSON values: {error}") from None
    return copy


def strings(name: str, value: Any) -> dict[str, str]:
    """A dict from strings to strings; an empty one for None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(
        isinstance(word, str) for pair in value.items() for word in pair
    ):
        raise TypeError(f"{name} is a dict from strings to strings, not {value!r}")
    return dict(value)


def seconds(name: str, value: Any, *, none: bool = False) -> float:
    """A length of time, more than 0 unless none of it is fine too."""
    if isinstance(value, (str, bytes, bool)) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not (0 < value <= _LONGEST_S or (none and value == 0)):
        low = "0 seconds or more" if none else "more than 0 seconds"
        raise ValueError(f"{name} must be {low}, and at most {_LONGEST_S:g}, not {value!r}")
    return float(value)


def error_budget(value: Any) -> int | float | None:
    """How many samples may fail: a number of them, a part of them, or None for any number."""
    if value is None:
        return None
    whole = hasattr(type(value), "__index__")  # numpy's integers too
    if not whole and hasattr(type(value), "__float__"):
        if not 0 < value < 1:
            raise ValueError(
                "max_errors as a part of the samples is between 0.0 and 1.0, as a number of them "
                f"an int, not {value!r}"
            )
        return float(value)
    return integer("max_errors", value, 0, _MAX_COUNT)


def budget_document(budget: int | float | None) -> dict[str, int | float] | None:
    """The same as pybind.Open takes it."""
    if budget is None:
        return None
    return {"fraction" if isinstance(budget, float) else "count": budget}


def amount(name: str, value: Any) -> float:
    """A finite number of 0 or more."""
    if isinstance(value, (str, bytes, bool)) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be less than 1.8e308") from None


def names(argument: str, value: Any) -> tuple[str, ...]:
    """Several strings; a single one is refused, for its letters would be taken for names."""
    if isinstance(value, str):
        raise TypeError(f"{argument} is a list of names: [{value!r}]?")
    try:
        several = tuple(value)
    except TypeError:
        raise TypeError(f"{argument} is a list of names, not {value!r}") from None
    for name in several:
        if not isinstance(name, str):
            raise TypeError(f"{argument} is a list of names, and {name!r} is not a string")
    return several


def decoders(value: Any, path: str = "") -> dict[str, Any]:
    """Fields and their decoders, as plain dicts and strings; the cluster knows which there are."""
    where = f"decode[{path!r}]" if path else "decode"
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{where} is a dict from fields to decoders such as {{'jpg': 'rgb8'}}, not {value!r}"
        )
    plain: dict[str, Any] = {}
    for name, how in value.items():
        if not isinstance(name, str):
            raise TypeError(f"{where} has a name that is not a string: {name!r}")
        inner = f"{path}.{name}" if path else name
        if isinstance(how, str):
            plain[name] = how
        elif isinstance(how, Mapping) and how:
            plain[name] = decoders(how, inner)
        else:
            raise TypeError(
                f"decode[{inner!r}] is the name of a decoder such as 'rgb8' or 'int', or for JSON "
                f"a dict from its members to decoders, not {how!r}"
            )
    return plain


def endpoint_url(value: Any) -> str:
    """The address of a gateway, or of several with commas between; no slashes at their ends."""
    if not isinstance(value, str):
        raise TypeError(f"endpoint must be a string such as 'http://127.0.0.1:7070', not {value!r}")
    wrong = ValueError(
        f"endpoint {value!r} is not an http://host:port address "
        "(SHARDSTREAM_ENDPOINT, or the argument)"
    )
    gateways = [part.strip().rstrip("/") for part in value.split(",")]
    for gateway in gateways:
        try:
            parts = urlsplit(gateway)
            _ = parts.port  # raises where it is no number
        except ValueError:
            raise wrong from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise wrong
    return ",".join(gateways)


def token_text(value: Any) -> str:
    """A token that fits into a header; it is never shown."""
    if not isinstance(value, str):
        raise TypeError(f"token must be a string, not {type(value).__name__}")
    if not (value.isascii() and value.isprintable()):
        raise ValueError(
            "token must be printable ASCII without line ends (SHARDSTREAM_TOKEN, or the argument)"
        )
    return value


def shared_memory_allowed() -> bool:
    """Whether the environment leaves shared memory on: all but off, 0, no and false do."""
    value = os.environ.get("SHARDSTREAM_SHARED_MEMORY", "")
    return value.lower() not in ("off", "0", "no", "false")


def rank_pair(rank: int | None, world_size: int | None) -> tuple[int | None, int | None]:
    """A rank and a world size that fit together, or None for both."""
    if rank is None and world_size is None:
        return None, None
    if rank is None or world_size is None:
        raise ValueError("rank and world_size are given together, or neither")
    world_size = integer("world_size", world_size, 1, _MAX_WORLD)
    rank = integer("rank", rank, 0)
    if rank >= world_size:
        raise ValueError(f"rank {rank} of a world of {world_size}: ranks are 0 to {world_size - 1}")
    return rank, world_size

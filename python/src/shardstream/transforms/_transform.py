"""What a transform is, and how it checks its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ._draws import Draws

#: Fields by name: bytes, str, numbers, numpy arrays, and pictures on their way through a chain.
Sample = dict[str, Any]


class TransformError(ValueError):
    """A sample can't be transformed; the message names its field and what is wrong with it."""

    __module__ = "shardstream.transforms"  # its name in messages, wherever it was loaded from


class Transform:
    """One step of a `Compose`: it changes fields of one sample.

    A subclass is a frozen dataclass whose arguments are plain values: it is deployed as the text
    of the call that makes it.
    """

    #: Packages that workers need.
    requirements: ClassVar[tuple[str, ...]] = ("numpy",)

    def load(self) -> None:
        """Do what takes long once, before the first sample."""

    def apply(self, sample: Sample, draws: Draws) -> None:
        """Change the sample in place; all that is random comes from draws."""
        raise NotImplementedError


def value_of(sample: Sample, field: str) -> Any:
    """A field's value.

    Raises:
        TransformError: the sample lacks the field.
    """
    try:
        return sample[field]
    except KeyError:
        there = ", ".join(repr(name) for name in sample if not name.startswith("__")) or "none"
        raise TransformError(f"there is no field {field!r}; its fields are {there}") from None


def size_of(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an argument that is both or one number for both."""
    both = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(both) != 2 or any(type(n) is not int or n < 1 or n > 1 << 16 for n in both):
        raise ValueError(f"{name} is a whole number or (height, width) of 1 to 65536, not {size!r}")
    return both[0], both[1]


def range_of(name: str, low_high: tuple[float, float], least: float) -> None:
    """Refuse what is no range of numbers above least."""
    try:
        low, high = (float(n) for n in low_high)
    except (TypeError, ValueError):
        low, high = 1, 0
    if not least <= low <= high < float("inf"):
        raise ValueError(f"{name} is (low, high), both at least {least:g}, not {low_high!r}")


def probability(p: float) -> None:
    """Refuse what is no probability."""
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ValueError(f"p is a probability of 0 to 1, not {p!r}")

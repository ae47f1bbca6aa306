"""Random numbers of one transform for one sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")
_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class Draws:
    """A generator (SplitMix64) whose numbers follow from a sample's seed and a place in the chain.

    Not numpy's, whose streams may change with its version, nor Python's, which takes longer to
    seed than a crop takes to draw.
    """

    def __init__(self, seed: int, position: int = 0) -> None:
        """Begin the sequence of (seed, position); both are taken modulo 2**64."""
        self._state = _mix((_mix((seed + _STEP) & _MASK) + position) & _MASK)

    def bits(self) -> int:
        """The next 64 bits, as a number."""
        self._state = (self._state + _STEP) & _MASK
        return _mix(self._state)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number of [low, high)."""
        return low + (high - low) * ((self.bits() >> 11) * 2.0**-53)

    def integer(self, below: int) -> int:
        """A whole number of [0, below)."""
        return (self.bits() * below) >> 64

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.uniform() < p

    def shuffled(self, items: Sequence[_T]) -> list[_T]:
        """The items in a random order."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.integer(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

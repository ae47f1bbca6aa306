"""How well an epoch's order is mixed, from the numbers of its samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass
class Quality:
    """Of one epoch, whole, as one client saw it.

    pairs: the share of a batch's sample pairs that come from one shard, the mean over batches.
    pairs_worst: of the worst batch (a short last batch does not count).
    pairs_ideal: what a random permutation gives on average.
    distance: how far apart neighbours of the order lie in the data, over what is ideal (1).
    """

    pairs: float
    pairs_worst: float
    pairs_ideal: float
    distance: float
    exactly_once: bool


def judge(
    batches: Sequence[Sequence[int]], samples: int, shard_of: Callable[[int], int]
) -> Quality:
    """Looks at an epoch's batches of sample numbers, 0 to samples-1 where all is well."""
    order = [sample for batch in batches for sample in batch]
    full = [batch for batch in batches if len(batch) == len(batches[0]) and len(batch) > 1]
    pairs = [_same_pairs(Counter(map(shard_of, batch))) for batch in full]
    steps = [abs(b - a) for a, b in pairwise(order)]
    return Quality(
        pairs=sum(pairs) / len(pairs) if pairs else 0,
        pairs_worst=max(pairs, default=0),
        pairs_ideal=_same_pairs(Counter(map(shard_of, range(samples)))),
        distance=sum(steps) / len(steps) / (samples / 3) if steps else 0,
        exactly_once=len(order) == samples and set(order) == set(range(samples)),
    )


def _same_pairs(shards: Counter[int]) -> float:
    n = sum(shards.values())
    return sum(c * (c - 1) for c in shards.values()) / (n * (n - 1))

"""The sources of a mixture, as a caller describes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any

from ._arguments import amount, choice, etl_arguments, etl_names, integer
from ._shuffles import AUTO, SHUFFLES, Chosen, Shuffle
from ._sources import source_list

_MAX_SAMPLES = 2**50
_MAX_PARTS = 1000


@dataclass(frozen=True, repr=False)
class Source:
    """One source of a `Mixture`, with at most one of weight, repeat and samples.

    Args:
        source: an address or several, as `IterableDataset` takes them.
        weight: its share of an epoch, relative to the weights of the others; 0 leaves it out.
        repeat: how often its samples come in an epoch, such as 2 or 0.5.
        samples: how many of its samples come in an epoch.
        shuffle: of this source, as `IterableDataset` takes it.
        etl: name of the deployed transformation that its samples go through, or several, in a
            list or with commas between; None sends them as they are.
        etl_args: arguments for it, as `IterableDataset` takes them.

    Raises:
        ValueError: an argument is out of range, or two that exclude each other are given.
        TypeError: an argument is of the wrong type.
    """

    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    _: KW_ONLY
    weight: float | None = None
    repeat: float | None = None
    samples: int | None = None
    shuffle: Shuffle = AUTO
    etl: str | Sequence[str] | None = None
    etl_args: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = field(
        default=None, hash=False
    )

    def __post_init__(self) -> None:
        """Check the arguments, and keep them in one form, so that equal sources are equal."""
        addresses = source_list(self.source)
        given: dict[str, Any] = {"source": addresses[0] if len(addresses) == 1 else addresses}
        if self.weight is not None:
            given["weight"] = amount("weight", self.weight)
        if self.repeat is not None:
            given["repeat"] = amount("repeat", self.repeat)
        if self.samples is not None:
            given["samples"] = integer("samples", self.samples, 0, _MAX_SAMPLES)
        if len(given) > 2:
            raise ValueError(
                f"source {addresses[0]!r} has {' and '.join(list(given)[1:])}: give one of them"
            )
        choice("shuffle", self.shuffle, SHUFFLES)
        given["etl"] = etl_names(self.etl)
        given["etl_args"] = etl_arguments(given["etl"], self.etl_args)
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        given = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(self)[1:]
            if getattr(self, one.name) != one.default
        ]
        return f"Source({', '.join([repr(self.source), *given])})"

    def order(self, chosen: Chosen | None = None) -> dict[str, Any]:
        """What the order of a mixture depends on: the document without the etl.

        Args:
            chosen: the shuffle, where it was left to the cluster and is known.
        """
        document: dict[str, Any] = {"sources": list(source_list(self.source))}
        for name in ("weight", "repeat", "samples"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        document["shuffle"] = self.shuffle or "none"
        if self.shuffle == AUTO and chosen is not None:
            document.update(chosen.document())
        return document

    def document(self, chosen: Chosen | None = None) -> dict[str, Any]:
        """The source as the cluster takes it."""
        document = self.order(chosen)
        if document["shuffle"] == AUTO:
            del document["shuffle"]
        for name in ("etl", "etl_args"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        return document


def sources_of(sources: Any) -> tuple[Source, ...]:
    """Sources, addresses, or pairs of an address and a weight, as sources that fit together."""
    if isinstance(sources, (str, bytes, Source)) or not isinstance(sources, Iterable):
        raise TypeError(f"a mixture takes a list of sources, not {sources!r}: [{sources!r}]?")
    if isinstance(sources, Mapping):
        sources = sources.items()
    parts = tuple(_source(one) for one in sources)
    if not 1 <= len(parts) <= _MAX_PARTS:
        raise ValueError(f"a mixture has 1 to {_MAX_PARTS} sources, not {len(parts)}")
    weighted = [part for part in parts if part.weight is not None]
    if weighted and len(weighted) < len(parts):
        other = next(part for part in parts if part.weight is None)
        raise ValueError(
            f"{len(weighted)} of {len(parts)} sources have a weight, {other!r} has none: give one "
            "to each, or to none (then repeat and samples say how much comes of each)"
        )
    if weighted and not any(part.weight for part in weighted):
        raise ValueError("all weights are 0: no source would give anything")
    return parts


def _source(one: Any) -> Source:
    if isinstance(one, Source):
        return one
    if isinstance(one, (str, os.PathLike)):
        return Source(one)
    if isinstance(one, tuple) and len(one) == 2 and not isinstance(one[1], str):
        return Source(one[0], weight=one[1])
    raise TypeError(
        f"a source of a mixture is a Source, an address, or a pair (address, weight), not {one!r}"
    )

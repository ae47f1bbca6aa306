"""Several sources, mixed into the batches of one dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from ._arguments import choice, flag, integer
from ._dataset import IterableDataset
from ._parts import Source, sources_of
from ._shuffles import AUTO, Chosen, choice_in
from ._sources import source_list

_INTERLEAVES = ("random", "stratified", "per_source")
_MAX_SAMPLES = 2**50


class Mixture(IterableDataset):
    """Batches of several sources' samples, in given proportions: an `IterableDataset` in all else.

    Each source gives an epoch a number of samples, and goes through its data pass after pass,
    shuffled anew for each: the next epoch goes on where the last one stopped, so that no sample
    of a source comes again before all of its samples came. How many it gives follows from

    * ``weight``: that share of the epoch. It is given for all sources or for none.
    * ``repeat``: that many times what it has; ``samples``: just as many. Where none of the three
      is given: all that it has, once.

    Batches are those of `IterableDataset`, with one column more: ``"__source__"``, int64 ``[N]``,
    the number of each sample's source in the list. A field that some sources lack is None in
    their samples' places.

    The order depends on the data, the sources, seed, epoch and interleave alone, not on ranks,
    workers or targets, so that a mixture resumes as any dataset does. A state that was saved
    under other weights is refused.

    Args:
        sources: a list of `Source`, addresses (as ``Source(address)``) or pairs (address,
            weight); or a dict from address to weight.
        batch_size: samples in each batch of a rank.
        objects: the sources' objects are samples of their own, as with ``samples="objects"`` of an
            `IterableDataset`; otherwise they are tar files of samples.
        interleave: "random": all samples of an epoch are shuffled together; every source has
            shuffle="global". "stratified": every batch has each source's share, and each source
            keeps its own order. "per_source": each batch is from one source; what a source gives
            is rounded to whole batches, and only the last step, which is shared out evenly, may
            mix (see drop_last).
        samples: of an epoch, shared out by weight (by size, without weights). By default as many
            as all sources have together.
        seed: of the shuffles and of the ETLs' random numbers; 0 to 2**64-1.
        fields: only these fields of the samples; None is all.
        decode: see `IterableDataset`.
        drop_last: leave out the last step where it is not full.
        rank: see `IterableDataset`.
        world_size: see `IterableDataset`.
        on_error: see `IterableDataset`.
        max_errors: see `IterableDataset`.
        pad: see `IterableDataset`.
        timeout: see `IterableDataset`.
        prefetch: see `IterableDataset`.
        max_batch_bytes: see `IterableDataset`.
        shared_memory: see `IterableDataset`.
        compress: see `IterableDataset`.
        endpoint: see `IterableDataset`.
        token: see `IterableDataset`.

    Raises:
        ValueError: an argument is out of range, or the sources' do not fit together.
        TypeError: an argument is of the wrong type.

    Example:
        >>> ds = Mixture([("ss://web/*.tar", 0.7), ("ss://books/*.tar", 0.3)], batch_size=256)
        >>> ds.info()["mixture"]["parts"][0]["draws"]
    """

    _SETTINGS: ClassVar[tuple[str, ...]] = (
        *IterableDataset._SETTINGS, "mixed", "interleave", "samples",
    )  # fmt: skip

    def __init__(
        self,
        sources: Iterable[Source | str | os.PathLike[str] | tuple[str, float]]
        | Mapping[str, float],
        *,
        batch_size: int,
        objects: bool = False,
        interleave: Literal["random", "stratified", "per_source"] = "random",
        samples: int | None = None,
        seed: int = 0,
        fields: Sequence[str] | None = None,
        decode: Mapping[str, Any] | None = None,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        on_error: Literal["raise", "skip", "warn"] = "raise",
        max_errors: int | float | None = None,
        pad: bool = False,
        timeout: float = 60.0,
        prefetch: int = 4,
        max_batch_bytes: int = 4 << 30,
        shared_memory: bool | None = None,
        compress: Literal["auto", "lz4", "off"] = "auto",
        endpoint: str | None = None,
        token: str | None = None,
    ) -> None:
        self.mixed = sources_of(sources)
        self.interleave = choice("interleave", interleave, _INTERLEAVES)
        self.samples = None if samples is None else integer("samples", samples, 1, _MAX_SAMPLES)
        self._check()
        super().__init__(
            [address for part in self.mixed for address in source_list(part.source)],
            batch_size=batch_size,
            samples="objects" if flag("objects", objects) else "shards",
            seed=seed,
            fields=fields,
            decode=decode,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            on_error=on_error,
            max_errors=max_errors,
            pad=pad,
            timeout=timeout,
            prefetch=prefetch,
            max_batch_bytes=max_batch_bytes,
            shared_memory=shared_memory,
            compress=compress,
            endpoint=endpoint,
            token=token,
        )

    def _check(self) -> None:
        """What the sources are together: the cluster would refuse it too, but later."""
        for part in self.mixed:
            if self.interleave == "random" and part.shuffle not in (AUTO, "global"):
                raise ValueError(
                    f"interleave='random' shuffles all samples together, which undoes the order of "
                    f'{part!r}: take interleave="stratified", or shuffle="global" there'
                )
            counted = part.repeat is not None or part.samples is not None
            if self.samples is not None and counted:
                raise ValueError(
                    f"samples={self.samples} of the mixture and {part!r}: repeat and samples of "
                    "the sources add up to the epoch's samples; give weights, or leave it out"
                )

    def __repr__(self) -> str:
        text = f"{list(self.mixed)!r}, batch_size={self.batch_size}"
        text += f", interleave={self.interleave!r}, seed={self.seed}"
        for name in ("samples", "fields", "decode", "rank", "world_size"):
            value = getattr(self, name)
            if value is not None:
                text += f", {name}={value!r}"
        for name, given in (
            ("objects", self._kind == "objects"),
            ("drop_last", self.drop_last),
            ("pad", self.pad),
        ):
            if given:
                text += f", {name}=True"
        return f"Mixture({text})"

    def _config(self) -> dict[str, Any]:
        mixture: dict[str, Any] = {
            "sources": [
                part.document(chosen)
                for part, chosen in zip(self.mixed, self._chosen(), strict=True)
            ],
            "interleave": self.interleave,
        }
        if self.samples is not None:
            mixture["samples"] = self.samples
        return {**super()._config(), "sources": (), "mixture": mixture}

    def _shuffled(self) -> dict[str, Any]:
        return {"shuffle": ""}  # each source has its own

    def _order(self) -> dict[str, Any]:
        mixture: dict[str, Any] = {
            "interleave": self.interleave,
            "samples": self.samples,
            "sources": [
                part.order(chosen) for part, chosen in zip(self.mixed, self._chosen(), strict=True)
            ],
        }
        if self.interleave == "per_source":
            mixture["batch_size"] = self.batch_size
        return {"seed": self.seed, "mixture": mixture}

    def _check_order(self, saved: Mapping[str, Any]) -> None:
        try:
            before = self._course.ledger.order
            self._follow(saved)
            changes = _changes(saved, self._order())
            if changes:
                self._course.ledger.order = before
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a state of a shardstream mixture: {error!r}") from error
        if changes:
            raise ValueError(
                "the state was saved for another mixture, which makes another order: "
                + "; ".join(changes)
            )

    def _chosen(self) -> tuple[Chosen, ...]:
        if self.interleave == "random":  # which permutes all samples, wherever they are
            return (Chosen("global"),) * len(self.mixed)
        chosen = super()._chosen()
        return chosen if len(chosen) == len(self.mixed) else (Chosen(AUTO),) * len(self.mixed)

    def _follow(self, saved: Mapping[str, Any]) -> None:
        """Take the shuffles of a state where they were left to the cluster, then or now."""
        sources = saved["mixture"]["sources"]
        if self.interleave != "random" and len(sources) == len(self.mixed):
            self._choose(tuple(choice_in(source) or Chosen(AUTO) for source in sources))


def _changes(saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """What differs between the order of a saved state and this dataset's, in words."""
    changes = []
    if saved["seed"] != own["seed"]:
        changes.append(f"seed={saved['seed']!r}, now {own['seed']!r}")
    before, now = saved["mixture"], own["mixture"]
    for name in ("interleave", "samples", "batch_size"):
        if before.get(name) != now.get(name):
            changes.append(f"{name}={before.get(name)!r}, now {now.get(name)!r}")
    if len(before["sources"]) != len(now["sources"]):
        changes.append(f"{len(before['sources'])} sources, now {len(now['sources'])}")
    for number, (was, is_) in enumerate(zip(before["sources"], now["sources"], strict=False)):
        for name in ("sources", "weight", "repeat", "samples", "shuffle", "slices", "window"):
            if was.get(name) != is_.get(name):
                told = f"{name}={was.get(name)!r}, now {is_.get(name)!r}"
                changes.append(f"source {number} ({is_['sources'][0]}): {told}")
    return changes

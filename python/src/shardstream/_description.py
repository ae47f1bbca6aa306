"""What a dataset is made of, and what the cluster answers about it.

No torch, no Go, and no network before something is asked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from ._arguments import (
    budget_document,
    choice,
    decoders,
    endpoint_url,
    error_budget,
    etl_arguments,
    etl_names,
    flag,
    integer,
    names,
    rank_pair,
    seconds,
    shared_memory_allowed,
    token_text,
)
from ._client import DEFAULT_ENDPOINT, Client
from ._ranks import ranks_of_process, this_worker
from ._shuffles import AUTO, SHUFFLES, Chosen, Shuffle, choice_in
from ._sources import shown, source_list

_COMPRESS = ("auto", "lz4", "off")
_SAMPLES = ("shards", "objects")
_ON_ERROR = ("raise", "skip", "warn")
_MAX_SEED = 2**64 - 1
_MAX_BATCH = 2**31 - 1  # the cluster has a limit of its own, and names it

#: What POST /v1/streams takes of a stream's configuration.
_DESCRIBED = (
    "sources", "batch_size", "shuffle", "seed", "etl", "etl_args", "fields", "drop_last",
    "mixture", "decode", "samples", "slices", "window",
)  # fmt: skip


class Description:
    """The arguments of an `IterableDataset`, checked, and the questions that they can answer."""

    #: What a copy of the dataset is made from.
    _SETTINGS: ClassVar[tuple[str, ...]] = (
        "sources", "batch_size", "shuffle", "seed", "etl", "etl_args", "fields", "drop_last",
        "rank", "world_size", "on_error", "max_errors", "pad", "timeout", "prefetch",
        "max_batch_bytes", "shared_memory", "compress", "endpoint", "_token",
        "decode", "_kind",
    )  # fmt: skip

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        batch_size: int,
        samples: Literal["shards", "objects"] = "shards",
        shuffle: Shuffle = AUTO,
        seed: int = 0,
        etl: str | Sequence[str] | None = None,
        etl_args: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
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
        self.sources = source_list(source)
        self.batch_size = integer("batch_size", batch_size, 1, _MAX_BATCH)
        # Not `samples`, which is a mixture's number of them.
        self._kind = choice("samples", samples, _SAMPLES)
        self.shuffle = choice("shuffle", shuffle, SHUFFLES)
        self.seed = integer("seed", seed, 0, _MAX_SEED)
        self.etl = etl_names(etl)
        self.etl_args = etl_arguments(self.etl, etl_args)
        self.fields = None if fields is None else names("fields", fields)
        if self.fields == ():
            raise ValueError("fields is empty: name the columns to fetch, or None for all")
        self.decode = None if decode is None else decoders(decode)
        self.drop_last = flag("drop_last", drop_last)
        self.rank, self.world_size = rank_pair(rank, world_size)
        self.on_error = choice("on_error", on_error, _ON_ERROR)
        self.max_errors = error_budget(max_errors)
        if max_errors is not None and on_error == "raise":
            raise ValueError(
                "max_errors needs on_error='skip' or 'warn': 'raise' ends with the first error"
            )
        self.pad = flag("pad", pad)
        self.timeout = seconds("timeout", timeout)
        self.prefetch = integer("prefetch", prefetch, 1, 1024)
        self.max_batch_bytes = integer("max_batch_bytes", max_batch_bytes, 1 << 20, 64 << 30)
        if shared_memory is None:
            shared_memory = shared_memory_allowed()
        self.shared_memory = flag("shared_memory", shared_memory)
        self.compress = choice("compress", compress, _COMPRESS)
        self.endpoint = endpoint_url(
            endpoint or os.environ.get("SHARDSTREAM_ENDPOINT") or DEFAULT_ENDPOINT
        )
        self._token = token_text(
            os.environ.get("SHARDSTREAM_TOKEN", "") if token is None else token
        )
        self._inherited: tuple[int, int] | None = None  # (rank, world size) of the trainer
        self._reset()

    def _reset(self) -> None:
        """What belongs to this process and to no copy of the dataset."""
        self._infos: dict[tuple[int, int], dict[str, Any]] = {}

    def __repr__(self) -> str:
        text = f"{shown(self.sources)}, batch_size={self.batch_size}, shuffle={self.shuffle!r}"
        text += f", seed={self.seed}"
        for name in ("etl", "etl_args", "fields", "decode", "rank", "world_size"):
            value = getattr(self, name)
            if value is not None:
                text += f", {name}={value!r}"
        if self._kind != "shards":
            text += f", samples={self._kind!r}"
        for name in ("drop_last", "pad"):
            if getattr(self, name):
                text += f", {name}=True"
        return f"IterableDataset({text})"

    def __len__(self) -> int:
        """Batches in this rank's epoch; asks the cluster, once."""
        return int(self._describe()["batches"])

    def __bool__(self) -> bool:
        """Always true: asking whether there is a dataset must not ask the cluster."""
        return True

    def info(self) -> dict[str, Any]:
        """The data as it is now: snapshot, samples, shards, bytes, batches, max_sample."""
        answer = self._describe(fresh=True)
        return {key: value for key, value in answer.items() if key != "map"}

    def _order(self) -> dict[str, Any]:
        """What the order of an epoch depends on, apart from the data: a part of each state."""
        order: dict[str, Any] = {"seed": self.seed, "shuffle": self.shuffle}
        if self.shuffle == AUTO:
            for chosen in self._chosen():
                order.update(chosen.document())
        return order

    def _check_order(self, saved: Mapping[str, Any]) -> None:
        """Refuse a state whose position is one in another order.

        Where the shuffle is left to the cluster, the state's is taken.
        """
        own = {"seed": self.seed, "shuffle": self.shuffle}
        chosen = choice_in(saved) if self.shuffle == AUTO else None
        if chosen is not None and saved["seed"] == self.seed:
            self._choose((chosen,))
        elif saved != own:
            given = [f"{name}={value!r}" for name, value in saved.items()]
            raise ValueError(
                f"the state was saved with {', '.join(given)}, this dataset has "
                f"seed={self.seed}, shuffle={self.shuffle!r}: they make different orders"
            )

    def _chosen(self) -> tuple[Chosen, ...]:
        """The shuffle of each source, as the cluster chose it or a state has it; () before."""
        return ()

    def _choose(self, chosen: tuple[Chosen, ...]) -> None:
        """Go on in the order of a state."""

    def _shuffled(self) -> dict[str, Any]:
        """The shuffle as the cluster takes it: "" where it is to choose."""
        if self.shuffle != AUTO:
            return {"shuffle": self.shuffle or "none"}
        chosen = self._chosen()
        return chosen[0].document() if chosen else {"shuffle": ""}

    def _ranks_now(self) -> tuple[int, int]:
        """(rank, world size), from the arguments, or from what this process is part of now."""
        if self.rank is not None and self.world_size is not None:
            return self.rank, self.world_size
        if self._inherited is not None and this_worker() is not None:
            return self._inherited
        return ranks_of_process()

    def _describe(self, *, fresh: bool = False) -> dict[str, Any]:
        """What the cluster says about this dataset as a stream of this rank's."""
        ranks = self._ranks_now()
        if fresh or ranks not in self._infos:
            with self._client() as client:
                self._infos[ranks] = client.stream_info(self._description())
        return self._infos[ranks]

    def _client(self) -> Client:
        return Client(self.endpoint, token=self._token, timeout=self.timeout)

    def _description(self) -> dict[str, Any]:
        """This rank's stream as POST /v1/streams takes it."""
        config = self._config()
        rank, world = self._ranks_now()
        described = {name: config[name] for name in _DESCRIBED if name in config}
        return {**described, "rank": rank, "world_size": world}

    def _config(self) -> dict[str, Any]:
        """The stream as pybind.Open takes it."""
        return {
            "endpoint": self.endpoint,
            "token": self._token,
            "sources": self.sources,
            "samples": self._kind,
            "batch_size": self.batch_size,
            **self._shuffled(),
            "seed": self.seed,
            "etl": self.etl or "",
            **({} if self.etl_args is None else {"etl_args": self.etl_args}),
            "fields": self.fields or (),
            "decode": self.decode or {},
            "drop_last": self.drop_last,
            "prefetch": self.prefetch,
            "max_batch_bytes": self.max_batch_bytes,
            "on_error": self.on_error,
            "max_errors": budget_document(self.max_errors),
            "pad": self.pad,
            "timeout_s": self.timeout,
            "shared_memory": self.shared_memory,
            "compress": self.compress,
            # A DataLoader's worker may be gone before the next epoch.
            "read_ahead": this_worker() is None,
        }

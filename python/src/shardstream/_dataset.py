"""The dataset: which batches, in which order, from where on.

No torch, no Go and no network here until the first batch is asked for.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.context import get_spawning_popen
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from . import _native
from ._arguments import (
    budget_document,
    decoders,
    endpoint_url,
    error_budget,
    integer,
    names,
    rank_pair,
    seconds,
    shared_memory_allowed,
    token_text,
)
from ._client import DEFAULT_ENDPOINT, Client
from ._epochs import MAIN, Ledger, Plan
from ._exceptions import ClosedError
from ._iteration import Iteration, Progress
from ._ranks import Worker, ranks_of_process, this_worker
from ._sources import shown, source_list
from ._splitters import refuse_second_split

if TYPE_CHECKING:
    from ._batch import Batch
    from ._models import Explanation

_Dataset = TypeVar("_Dataset", bound="IterableDataset")  # typing.Self came with Python 3.11

_STATE_VERSION = 1
_SHUFFLES = ("global", "window", "shards", None)
_COMPRESS = ("auto", "lz4", "off")
_SAMPLES = ("shards", "objects")
_ON_ERROR = ("raise", "skip", "warn")
_MAX_SEED = 2**64 - 1
_MAX_BATCH = 2**31 - 1  # the cluster has a limit of its own, and names it
_MAX_EPOCH = 2**62


class IterableDataset:
    """Batches of a cluster's samples, shuffled and transformed there.

    With torch installed this is a `torch.utils.data.IterableDataset` and arrays are tensors;
    without it, or in a plain loop, it works the same and arrays are numpy's.

    Each batch is a dict from column to values, for N samples:

    * ``"__key__"``: list of N str, the samples' names.
    * a column of numbers or equal-shaped arrays, decoded or from the ETL: one array or tensor
      ``[N, *shape]`` with its dtype; of different shapes: a list of N arrays (None if missing).
    * a column of bytes (every column, without an ETL or decode): a `BytesColumn`, a sequence of
      N zero-copy memoryviews. Text: a list of N str. JSON: a list of N parsed documents.
    * ``"__mask__"``: bool ``[N]``, False in rows that are no sample of this rank's: always there
      with ``pad=True``; without it only in the one kind of batch that has padding: the last step
      of an epoch with fewer samples left than ranks gives some ranks a repeated sample.

    Arrays and views lie on the loader's memory, uncopied. They are writeable, are this process's
    alone, and stay as they are for as long as anything refers to them; a batch that is kept keeps
    its memory, so copy the parts that you keep (`tensor.clone()`, `bytes(view)`).

    The order of an epoch depends on the data, seed, epoch and shuffle alone: not on the number of
    ranks, workers or targets. Each rank takes its part of every step, all ranks equally many.
    With DataLoader pass ``batch_size=None``: these are batches already, and a DataLoader that is
    given a number, or left with its default of 1, would stack them once more. ``num_workers=0``
    is the fast path, since reading ahead happens outside Python.

    Args:
        source: ``ss://bucket/key`` with braces and globs, ``ss://bucket/prefix/``, or several.
            ``@ss://bucket/list`` is a manifest, an object that lists objects; the `Path` of a
            local file is one too. ``=ss://bucket/key`` is a name in which ``*?[{`` are letters.
        batch_size: samples in each batch of a rank.
        samples: "shards" (sources are tar files of samples) or "objects": each object is a
            sample of its own, with its extension as its only column.
        shuffle: "global" (every sample anywhere), "window" (slices of shards, then samples
            across a window of them), "shards" (their order only), None.
        seed: of the shuffle and of the ETL's random numbers; 0 to 2**64-1.
        etl: name of a deployed transformation (see `Client.etl`).
        fields: only these fields of the samples; None is all.
        decode: for fields, how the cluster decodes them: "rgb8" (images: uint8 [height, width,
            3]), "rgba8", "gray8" (uint8 [height, width]), "int" (int64), "float" (float64),
            "text", "npy", "json" (parsed), "bytes"; or for JSON a dict from its members to
            "int", "float", "bool", "text", "json" or such a dict: ``{"json": {"box": "float"}}``
            makes the column "json.box" of numbers, or of arrays of them.
        drop_last: leave out the last step where it is not full.
        rank: this process's number. Given together with world_size, or neither: then they are
            found when an iteration begins, from torch.distributed if it is initialised, else from
            RANK and WORLD_SIZE, else 0 of 1.
        world_size: the number of processes that share an epoch.
        on_error: for a sample that can't be read or transformed: "raise" SampleError, "skip" it
            (counted in stats()), or "warn" with a SkippedSampleWarning and skip it.
        max_errors: how many samples "skip" and "warn" may leave out of one iteration of this
            process: an int, or a float for that part of the samples come to so far (judged from
            the eleventh bad one on, and at the end). More raise TooManyErrors; None is any number.
        pad: give every batch exactly batch_size rows, so that shapes are static, and each sample
            its own row: rows without a sample (short last batches, ranks without one, skipped
            samples) repeat another row and are False in ``"__mask__"``.
        timeout: seconds without a batch after which iterating raises DeadlineError.
        prefetch: batches that are assembled ahead.
        max_batch_bytes: memory that one batch may take; more is an error, whatever a target sends.
        shared_memory: let targets of this machine write into this process's batches instead of
            sending over TCP, wherever there are such targets. By default True, unless
            SHARDSTREAM_SHARED_MEMORY is off.
        compress: when samples travel compressed: "auto" (where their bytes shrink and the network
            is slower than compressing), "lz4" (where their bytes shrink), "off".
        endpoint: a gateway; by default SHARDSTREAM_ENDPOINT, or http://127.0.0.1:7070.
        token: by default SHARDSTREAM_TOKEN.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument is of the wrong type.

    Iterating raises NotFoundError (a source that matches nothing), ETLError and SampleError (user
    code, damaged samples), TooManyErrors, SnapshotChangedError (data changed since the saved
    state), ForkedError, DeadlineError, UnavailableError.

    Example:
        >>> ds = IterableDataset("ss://digits/train-*.tar", batch_size=256, etl="augment")
        >>> for epoch in range(10):
        ...     ds.set_epoch(epoch)
        ...     for batch in DataLoader(ds, batch_size=None):
        ...         train(batch["image"], batch["cls"])
    """

    _convert: ClassVar[Callable[[Any], Any] | None] = None
    #: What a copy of the dataset is made from.
    _SETTINGS: ClassVar[tuple[str, ...]] = (
        "sources", "batch_size", "shuffle", "seed", "etl", "fields", "drop_last", "rank",
        "world_size", "on_error", "max_errors", "pad", "timeout", "prefetch",
        "max_batch_bytes", "shared_memory", "compress", "endpoint", "_token",
        "decode", "_kind",
    )  # fmt: skip

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        batch_size: int,
        samples: Literal["shards", "objects"] = "shards",
        shuffle: Literal["global", "window", "shards"] | None = "global",
        seed: int = 0,
        etl: str | None = None,
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
        if samples not in _SAMPLES:
            raise ValueError(f"samples must be one of {_SAMPLES}, not {samples!r}")
        self._kind = samples  # not `samples`, which is a mixture's number of them
        if shuffle not in _SHUFFLES:
            raise ValueError(f"shuffle must be one of {_SHUFFLES}, not {shuffle!r}")
        self.shuffle = shuffle
        self.seed = integer("seed", seed, 0, _MAX_SEED)
        if etl is not None and not isinstance(etl, str):
            raise TypeError(
                "etl is the name of a deployed transformation: deploy the function first, with "
                "Client().etl.create(name, function)"
            )
        self.etl = etl or None
        self.fields = None if fields is None else names("fields", fields)
        if self.fields == ():
            raise ValueError("fields is empty: name the columns to fetch, or None for all")
        self.decode = None if decode is None else decoders(decode)
        if drop_last not in (True, False):
            raise TypeError(f"drop_last must be True or False, not {drop_last!r}")
        self.drop_last = bool(drop_last)
        self.rank, self.world_size = rank_pair(rank, world_size)
        if on_error not in _ON_ERROR:
            raise ValueError(f"on_error must be one of {_ON_ERROR}, not {on_error!r}")
        self.on_error = on_error
        self.max_errors = error_budget(max_errors)
        if max_errors is not None and on_error == "raise":
            raise ValueError(
                "max_errors needs on_error='skip' or 'warn': 'raise' ends with the first error"
            )
        if pad not in (True, False):
            raise TypeError(f"pad must be True or False, not {pad!r}")
        self.pad = bool(pad)
        self.timeout = seconds("timeout", timeout)
        self.prefetch = integer("prefetch", prefetch, 1, 1024)
        self.max_batch_bytes = integer("max_batch_bytes", max_batch_bytes, 1 << 20, 64 << 30)
        if shared_memory is None:
            shared_memory = shared_memory_allowed()
        if shared_memory not in (True, False):
            raise TypeError(f"shared_memory must be True or False, not {shared_memory!r}")
        self.shared_memory = bool(shared_memory)
        if compress not in _COMPRESS:
            raise ValueError(f"compress must be one of {_COMPRESS}, not {compress!r}")
        self.compress = compress
        self.endpoint = endpoint_url(
            endpoint or os.environ.get("SHARDSTREAM_ENDPOINT") or DEFAULT_ENDPOINT
        )
        self._token = token_text(
            os.environ.get("SHARDSTREAM_TOKEN", "") if token is None else token
        )
        self._default = Plan(0, 0)
        self._ledger = Ledger()
        self._inherited: tuple[int, int] | None = None  # (rank, world size) of the trainer
        self._reset()

    def _reset(self) -> None:
        """What belongs to this process and to no copy of the dataset."""
        self._stream: _native.Stream | None = None
        self._stream_pid = os.getpid()
        self._running: Progress | None = None  # the one iteration that the stream serves
        self._progress: Progress | None = None  # the same, unless a plan was set since
        self._rounds = 0  # iterations begun in this worker
        self._own: Plan | None = None  # a state that was loaded in a worker, by a stateful loader
        self._infos: dict[tuple[int, int], dict[str, Any]] = {}
        self._closed = False

    def __repr__(self) -> str:
        text = f"{shown(self.sources)}, batch_size={self.batch_size}, shuffle={self.shuffle!r}"
        text += f", seed={self.seed}"
        for name in ("etl", "fields", "decode", "rank", "world_size"):
            value = getattr(self, name)
            if value is not None:
                text += f", {name}={value!r}"
        if self._kind != "shards":
            text += f", samples={self._kind!r}"
        for name in ("drop_last", "pad"):
            if getattr(self, name):
                text += f", {name}=True"
        return f"IterableDataset({text})"

    # -- iterating ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        """Begin an iteration: of the epoch that was set, or of the one after the last.

        Nothing happens before the first batch is asked for. A dataset serves one iteration at a
        time; a new one ends the one before.

        Raises:
            RuntimeError: accelerate would share the batches out a second time.
        """
        refuse_second_split(sys._getframe(1))
        return Iteration(self)

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

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be of this epoch; without it, each is of the next one.

        It reaches the workers of a DataLoader, also persistent ones. A position that was loaded
        for the same epoch stays; one that an earlier epoch takes the place of is warned of.
        """
        refuse_second_split(sys._getframe(1))
        epoch = integer("epoch", epoch, 0, _MAX_EPOCH)
        pending = self._pending()
        position = pending.position if pending.epoch == epoch else 0
        if epoch < pending.epoch and pending.position:
            warnings.warn(
                f"set_epoch({epoch}) gives up the position that was loaded, epoch {pending.epoch} "
                f"at sample {pending.position}: to resume, count epochs on from {pending.epoch}",
                stacklevel=2,
            )
        self._plan(Plan(epoch, position))

    # -- state -------------------------------------------------------------------------------

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Where to go on: a small JSON-able dict, made without any network.

        It stands behind the last batch that was handed out, whatever was read ahead. With
        DataLoader workers only the training process knows how many batches it has used.

        Args:
            consumed: batches of this epoch that this rank has used. Needed with DataLoader
                workers, ignored nowhere.

        Raises:
            ValueError: workers were iterating, and consumed is missing.
        """
        if consumed is not None:
            consumed = integer("consumed", consumed, 0)
        worker = this_worker()
        if worker is not None and self._progress is not None:
            plan = self._progress.for_worker(worker)
            return {**self._state(plan), "worker": worker.number, "workers": worker.count}
        if self._progress is not None and self._progress.pid == os.getpid():
            if consumed is None:
                return self._state(self._progress.plan())
            return self._state(self._after(self._progress.began, consumed))
        last = self._ledger.last(os.getpid()) if self._progress is None else None
        if last is None or last.worker == MAIN:
            if consumed:
                raise ValueError("no batch of this epoch was handed out yet: leave consumed out")
            return self._state(self._pending())
        if consumed is None:
            raise ValueError(
                "DataLoader workers read ahead, so this process must say how many batches of the "
                "epoch it has used: state_dict(consumed=...); or use num_workers=0"
            )
        return self._state(self._after(last.plan, consumed))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on where a saved state stands; those after it are whole.

        Raises:
            ValueError: the state is not of this dataset (another seed or shuffle), or not a state.
        """
        try:
            version, epoch, position = state["version"], state["epoch"], state["position"]
            snapshot = state["snapshot"]
            if ("mixture" in state) != ("mixture" in self._order()):
                kinds = ("a Mixture", "an IterableDataset")
                raise ValueError(
                    "the state was saved by {}, and this is {}: they make different orders".format(
                        *(kinds if "mixture" in state else kinds[::-1])
                    )
                )
            saved = {name: state[name] for name in self._order()}
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a state of a shardstream dataset: {error!r}") from error
        if version != _STATE_VERSION:
            raise ValueError(f"state version {version!r} is not {_STATE_VERSION}")
        self._check_order(saved)
        plan = Plan(
            integer("epoch", epoch, 0, _MAX_EPOCH), integer("position", position, 0, 2**63 - 1)
        )
        worker = this_worker()
        if state.get("workers") is not None and (
            worker is None
            or (worker.number, worker.count) != (state.get("worker"), state["workers"])
        ):
            raise ValueError(
                f"this is the state of DataLoader worker {state.get('worker')} of "
                f"{state['workers']}: only a stateful loader with as many workers can use it"
            )
        self._ledger.snapshot = str(snapshot)
        if worker is not None:
            self._own = plan
        self._plan(plan)

    def stats(self) -> dict[str, Any]:
        """Counts since the first iteration in this process.

        Empty before the first batch, after close(), and where DataLoader workers do the
        iterating. Keys:

        * snapshot, batches, samples, bytes, samples_per_s, bytes_per_s.
        * wait_s: seconds spent waiting for batches, out of run_s; wait_share: their ratio.
        * bound_by: what limits the run now: "trainer", "network", "etl", "disk", "target" (its
          own work), "loader" (this process) or "opening"; advice: a sentence for people on that
          and on what would help.
        * recent: seconds, samples_per_s, bytes_per_s, wait_share of the last seconds.
        * queue: batches that are ready and assembling (window: at most so many), and those held,
          which something still refers to.
        * retries, skipped, skipped_keys (the first 1,000), skipped_by_code.
        * targets, by name: transport ("tcp" or "shared_memory"), samples, bytes, reconnects,
          samples_per_s, bytes_per_s, recent; compressed_from and compressed_to, bytes of samples
          that travelled compressed, and bytes that they took; wait_s, spent on batches that this
          target completed last; and work, seconds that the target spent: plan_s, read_s and etl_s
          preparing batches, send_s sending them, of which blocked_s waiting for this process to
          take more, idle_s with nothing to send; stored_bytes that its node read from disks.
        """
        if self._stream is None or self._stream_pid != os.getpid():
            return {}
        return self._stream.stats()

    def explain(
        self,
        epoch: int | None = None,
        batch: int | None = None,
        *,
        position: int | None = None,
        count: int = 1,
        start: int = 0,
        snapshot: str | None = None,
    ) -> Explanation:
        """Say which samples a batch has, and where they come from. Reads no sample.

        Computed on the cluster from the data, seed, epoch and shuffle, as the stream itself is;
        an ETL, fields and skipped samples make no difference.

        Args:
            epoch: by default the one that is, or will next be, iterated.
            batch: its number in this rank's epoch, from 0; that of a DataLoader's batch too.
            position: instead of a batch, a position of the epoch, whatever the rank.
            count: how many positions.
            start: the position at which this epoch was resumed, if it was (`state["position"]`):
                batches are counted from there.
            snapshot: id of the data as it was; by default that of what was streamed last, or of
                a loaded state, or else of the sources as they are now. Clusters keep the
                snapshots that were used last.

        Raises:
            ValueError: neither batch nor position was given, or both.
            RequestError: the epoch has no such batch or position.
            NotFoundError: the snapshot is not kept any more.

        Example:
            >>> [(s.key, s.shard, s.target) for s in ds.explain(3, 9123)]
        """
        if (batch is None) == (position is None):
            raise ValueError("give the number of a batch, or a position, not both")
        if epoch is None:
            running = self._progress
            epoch = self._pending().epoch if running is None else running.plan().epoch
        rank, world = self._ranks_now()
        request = self._description(rank, world)
        request["epoch"] = integer("epoch", epoch, 0, _MAX_EPOCH)
        request["snapshot"] = self._ledger.snapshot if snapshot is None else snapshot
        request["start"] = integer("start", start, 0, 2**63 - 1)
        if batch is not None:
            request["batch"] = integer("batch", batch, 0, 2**63 - 1)
        if position is not None:
            request["position"] = integer("position", position, 0, 2**63 - 1)
            request["count"] = integer("count", count, 1, 2**31)
        with Client(self.endpoint, token=self._token, timeout=self.timeout) as client:
            return client.explain(request)

    def close(self) -> None:
        """End the iteration and free the loader. Batches that are still referred to stay."""
        self._closed = True
        self._running = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def __enter__(self: _Dataset) -> _Dataset:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- copies ------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """The description, and what the next iteration takes; nothing of the running one."""
        state = {name: getattr(self, name) for name in self._SETTINGS}
        state["_default"] = tuple(self._pending())
        state["_snapshot"] = self._ledger.snapshot
        if get_spawning_popen() is not None:  # for a worker: it goes on with this very dataset
            state["_ledger"] = self._ledger
        # A spawned DataLoader worker does not see the trainer's torch.distributed.
        state["_inherited"] = self._ranks_now()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._reset()
        snapshot = state.pop("_snapshot")
        self.__dict__.update(state)
        self._default = Plan(*state["_default"])
        if "_ledger" not in state:
            self._ledger = Ledger()
            self._ledger.snapshot = snapshot

    # -- inside ------------------------------------------------------------------------------

    def _pending(self) -> Plan:
        """The plan of the next iteration, as far as this process can know."""
        return self._own or self._ledger.peek(os.getpid(), self._default)

    def _plan(self, plan: Plan) -> None:
        self._default = plan
        self._progress = None
        self._ledger.set(os.getpid(), plan)

    def _after(self, began: Plan, consumed: int) -> Plan:
        world = self._ranks_now()[1]
        return Plan(began.epoch, began.position + consumed * world * self.batch_size)

    def _state(self, plan: Plan) -> dict[str, Any]:
        return {
            "version": _STATE_VERSION,
            "snapshot": self._ledger.snapshot,
            **self._order(),
            "epoch": plan.epoch,
            "position": plan.position,
        }

    def _order(self) -> dict[str, Any]:
        """What the order of an epoch depends on, apart from the data: a part of each state."""
        return {"seed": self.seed, "shuffle": self.shuffle}

    def _check_order(self, saved: Mapping[str, Any]) -> None:
        """Refuse a state whose position is one in another order."""
        if saved != self._order():
            raise ValueError(
                f"the state was saved with seed={saved['seed']}, shuffle={saved['shuffle']!r}, "
                f"this dataset has seed={self.seed}, shuffle={self.shuffle!r}: they make "
                "different orders"
            )

    def _ranks_now(self) -> tuple[int, int]:
        """(rank, world size), from the arguments, or from what this process is part of now."""
        if self.rank is not None and self.world_size is not None:
            return self.rank, self.world_size
        if self._inherited is not None and this_worker() is not None:
            return self._inherited
        return ranks_of_process()

    def _describe(self, *, fresh: bool = False) -> dict[str, Any]:
        """What the cluster says about this dataset as a stream of this rank's."""
        rank, world = self._ranks_now()
        if fresh or (rank, world) not in self._infos:
            with Client(self.endpoint, token=self._token, timeout=self.timeout) as client:
                self._infos[rank, world] = client.stream_info(self._description(rank, world))
        return self._infos[rank, world]

    def _description(self, rank: int, world: int) -> dict[str, Any]:
        """The stream as POST /v1/streams takes it."""
        names = (
            "sources", "batch_size", "shuffle", "seed", "etl", "fields", "drop_last", "mixture",
            "decode", "samples",
        )  # fmt: skip
        config = self._config()
        description = {name: config[name] for name in names if name in config}
        return {**description, "rank": rank, "world_size": world}

    def _begin(self) -> Progress:
        """Start an iteration in the native loader."""
        if self._closed:
            raise ClosedError("this dataset is closed: make another one")
        _native.check_fork()
        rank, world = self._ranks_now()
        worker = this_worker()
        began = self._take_plan(worker)
        try:
            if began.position:
                # A state made by counting batches may point a little past the end of the epoch.
                samples = int(self._describe(fresh=True)["samples"])
                began = Plan(began.epoch, min(began.position, samples))
            if self._stream is None or self._stream_pid != os.getpid():
                self._stream_pid = os.getpid()
                self._stream = _native.Stream(self._config())
            self._stream.start(
                {
                    "epoch": began.epoch,
                    "position": began.position,
                    "rank": rank,
                    "world_size": world,
                    "worker": worker.number if worker else 0,
                    "workers": worker.count if worker else 1,
                    "snapshot": self._ledger.snapshot if began.position else "",
                }
            )
        except BaseException:
            self._begin_again(began)
            raise
        self._running = self._progress = Progress(began, world * self.batch_size)
        return self._running

    def _take_plan(self, worker: Worker | None) -> Plan:
        """What this iteration is to yield; the next one gets the epoch after it."""
        if worker is None:
            began = self._ledger.begin(os.getpid(), self._default)
            self._default = Plan(began.epoch + 1, 0)
            return began
        own, self._own = self._own, None
        self._rounds += 1
        return self._ledger.join(
            worker.trainer, worker.seed, self._rounds, worker.number, self._default, own
        )

    def _begin_again(self, began: Plan) -> None:
        """Let the next iteration take the plan of one that failed before its first batch."""
        worker = this_worker()
        self._ledger.set(os.getpid() if worker is None else worker.trainer, began)
        self._running = self._progress = None

    def _config(self) -> dict[str, Any]:
        """The stream as pybind.Open takes it."""
        return {
            "endpoint": self.endpoint,
            "token": self._token,
            "sources": self.sources,
            "samples": self._kind,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle or "none",
            "seed": self.seed,
            "etl": self.etl or "",
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

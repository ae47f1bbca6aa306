"""The dataset: which batches, in which order, from where on.

No torch, no Go and no network here until the first batch is asked for.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.context import get_spawning_popen
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from . import _native, _states
from ._arguments import integer, text
from ._course import Course
from ._description import Description
from ._epochs import MAX_EPOCH, Plan
from ._exceptions import ClosedError
from ._iteration import Iteration, Progress
from ._ranks import this_worker
from ._shuffles import AUTO, Chosen
from ._shuffles import read as read_shuffles
from ._shuffles import write as write_shuffles
from ._splitters import refuse_second_split, warn_of_stacking

if TYPE_CHECKING:
    from ._batch import Batch
    from ._models import Explanation

_Dataset = TypeVar("_Dataset", bound="IterableDataset")  # typing.Self came with Python 3.11

_MAX_POSITION = 2**63 - 1


class IterableDataset(Description):
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
            across a window of them), "shards" (their order only), None. By default, "auto", the
            cluster chooses: windows of whole shards that fit the cache where a source's bucket
            has a backend, else "global"; `stats()["order"]` says what, and states keep it.
        seed: of the shuffle and of the ETL's random numbers; 0 to 2**64-1.
        etl: name of a deployed transformation (see `Client.etl`); of several, in a list or with
            commas between, each is given what the one before it returned.
        etl_args: arguments for it, a dict; for several a list with a dict, or None, for each.
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

    def _reset(self, course: Course | None = None) -> None:
        super()._reset()
        self._course = Course() if course is None else course
        self._stream: _native.Stream | None = None
        self._stream_pid = os.getpid()
        self._outdated = False  # the stream was made for another order
        self._closed = False

    # -- iterating ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        """Begin an iteration: of the epoch that was set, or of the one after the last.

        Nothing happens before the first batch is asked for. A dataset serves one iteration at a
        time; a new one ends the one before.

        Raises:
            RuntimeError: accelerate would share the batches out a second time.
        """
        refuse_second_split(sys._getframe(1))
        warn_of_stacking(sys._getframe(1))
        return Iteration(self)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be of this epoch; without it, each is of the next one.

        It reaches the workers of a DataLoader, also persistent ones. A position that was loaded
        for the same epoch stays; one that an earlier epoch takes the place of is warned of.
        """
        refuse_second_split(sys._getframe(1))
        epoch = integer("epoch", epoch, 0, MAX_EPOCH)
        pending = self._course.pending()
        position = pending.position if pending.epoch == epoch else 0
        if epoch < pending.epoch and pending.position:
            warnings.warn(
                f"set_epoch({epoch}) gives up the position that was loaded, epoch {pending.epoch} "
                f"at sample {pending.position}: to resume, count epochs on from {pending.epoch}",
                stacklevel=2,
            )
        self._course.set(Plan(epoch, position))

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
        plan = None if worker is None else self._course.share(worker)
        if plan is None:
            worker, plan = None, self._course.here(consumed, self._step)
        saved = _states.Saved(plan, self._course.ledger.snapshot)
        return _states.document(saved, self._order(), worker)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on where a saved state stands; those after it are whole.

        Raises:
            ValueError: the state is not of this dataset (another seed or shuffle), or not a state.
        """
        worker = this_worker()
        saved = _states.read(state, self._order(), self._check_order, worker)
        self._course.ledger.snapshot = saved.snapshot
        self._course.load(saved.plan, worker)

    def stats(self) -> dict[str, Any]:
        """Counts since the first iteration in this process.

        Empty before the first batch, after close(), and where DataLoader workers do the
        iterating. Keys:

        * snapshot, order (shuffle, and of a window that is not the default slices and window; of a
          mixture "sources", a list of such), batches, samples, bytes, samples_per_s, bytes_per_s.
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

    def _chosen(self) -> tuple[Chosen, ...]:
        return read_shuffles(self._course.ledger.order)

    def _choose(self, chosen: tuple[Chosen, ...]) -> None:
        known = any(one.shuffle != AUTO for one in chosen)
        documents = [one.document() for one in chosen] if known else []
        self._course.ledger.order = write_shuffles(documents)
        self._outdated = True

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
            ValueError: neither batch nor position was given, or both; or count with a batch.
            RequestError: the epoch has no such batch or position.
            NotFoundError: the snapshot is not kept any more.

        Example:
            >>> [(s.key, s.shard, s.target) for s in ds.explain(3, 9123)]
        """
        if (batch is None) == (position is None):
            raise ValueError("give the number of a batch, or a position, not both")
        if batch is not None and count != 1:
            raise ValueError("count is of positions: a batch has as many samples as it has")
        request = self._description()
        epoch = self._course.epoch() if epoch is None else epoch
        request["epoch"] = integer("epoch", epoch, 0, MAX_EPOCH)
        if snapshot is None:
            snapshot = self._course.ledger.snapshot
        request["snapshot"] = text("snapshot", snapshot)
        request["start"] = integer("start", start, 0, _MAX_POSITION)
        if batch is not None:
            request["batch"] = integer("batch", batch, 0, _MAX_POSITION)
        if position is not None:
            request["position"] = integer("position", position, 0, _MAX_POSITION)
            request["count"] = integer("count", count, 1, 2**31)
        with self._client() as client:
            return client.explain(request)

    def close(self) -> None:
        """End the iteration and free the loader. Batches that are still referred to stay."""
        self._closed = True
        self._course.stop()
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
        state["_next"] = tuple(self._course.pending())
        state["_snapshot"] = self._course.ledger.snapshot
        state["_shuffles"] = self._course.ledger.order
        if get_spawning_popen() is not None:  # for a worker: it goes on with this very dataset
            state["_ledger"] = self._course.ledger
        # A spawned DataLoader worker does not see the trainer's torch.distributed.
        state["_inherited"] = self._ranks_now()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        pending, snapshot = Plan(*state.pop("_next")), state.pop("_snapshot")
        shuffles = state.pop("_shuffles", "")
        ledger = state.pop("_ledger", None)
        self._reset(Course(pending, ledger))
        if ledger is None:
            self._course.ledger.snapshot = snapshot
            self._course.ledger.order = shuffles
        self.__dict__.update(state)

    # -- inside ------------------------------------------------------------------------------

    def _step(self) -> int:
        """Samples of a full step of all ranks."""
        return self._ranks_now()[1] * self.batch_size

    def _begin(self) -> Progress:
        """Start an iteration in the native loader."""
        if self._closed:
            raise ClosedError("this dataset is closed: make another one")
        _native.check_fork()
        rank, world = self._ranks_now()
        worker = this_worker()
        began = self._course.take(worker)
        try:
            if began.position:
                # A state made by counting batches may point a little past the end of the epoch.
                samples = int(self._describe(fresh=True)["samples"])
                began = Plan(began.epoch, min(began.position, samples))
            if self._outdated and self._stream is not None and self._stream_pid == os.getpid():
                self._stream.close()
                self._stream = None
            self._outdated = False
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
                    "snapshot": self._course.ledger.snapshot if began.position else "",
                }
            )
        except BaseException:
            self._course.give_back(began, worker)
            raise
        return self._course.begin(began, self._step())

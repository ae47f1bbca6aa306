"""One pass of a dataset, and how far it has come."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import _native, _shuffles
from ._epochs import Plan
from ._exceptions import ClosedError, SkippedSampleWarning
from ._ranks import Worker, this_worker

if TYPE_CHECKING:
    from ._batch import Batch
    from ._dataset import IterableDataset


class Progress:
    """How far an iteration has come."""

    def __init__(self, began: Plan, step: int) -> None:
        self.began = began
        self.pid = os.getpid()
        self._position = began.position
        self._step = step
        self.batches = 0
        self._ended = False

    def handed_out(self, next_position: int) -> None:
        """Note a batch: the next one begins at this position."""
        self._position = next_position
        self.batches += 1

    def ended(self) -> None:
        """Note that the epoch is over."""
        self._ended = True

    def plan(self) -> Plan:
        """Behind the last batch; behind a whole epoch that is the beginning of the next."""
        if self._ended:
            return Plan(self.began.epoch + 1, 0)
        return Plan(self.began.epoch, self._position)

    def for_worker(self, worker: Worker) -> Plan:
        """From where this worker's share is what it has not handed out yet."""
        done = self.batches * worker.count * self._step
        return Plan(self.began.epoch, self.began.position + done)


class Iteration(Iterator["Batch"]):
    """One pass of a dataset; begins with the first batch. Threads may share it."""

    def __init__(self, dataset: IterableDataset) -> None:
        self._dataset = dataset
        self._progress: Progress | None = None
        self._done = False
        self._turn = threading.Lock()

    def __next__(self) -> Batch:
        _native.check_fork()  # first, for in a forked child the lock may never come free
        with self._turn:
            return self._next()

    def _next(self) -> Batch:
        from ._batch import read

        if self._done:
            raise StopIteration
        dataset = self._dataset
        try:
            if self._progress is None:
                self._progress = dataset._begin()
            elif dataset._course.running is not self._progress or self._progress.pid != os.getpid():
                _native.check_fork()
                raise ClosedError(
                    "this iteration has ended: another one of the same dataset began, or it was "
                    "closed; use two datasets to iterate twice at a time"
                )
            stream = dataset._stream
            assert stream is not None
            found = stream.next()
        except BaseException as error:
            self._failed(error)
            raise
        if found is None:
            self._progress.ended()
            self._done = True
            raise StopIteration
        head, batch = read(*found, type(dataset)._convert)
        if head.index != self._progress.batches:
            self._done = True
            raise ClosedError(
                "a batch was lost when an earlier wait was interrupted: go on with "
                "load_state_dict(state_dict()) and a new iteration"
            )
        if self._progress.batches == 0:
            stats = stream.stats()
            dataset._course.ledger.snapshot = str(stats["snapshot"])
            order = stats["order"]
            dataset._course.ledger.order = _shuffles.write(order.get("sources") or [order])
        self._progress.handed_out(head.next_position)
        if head.skipped and dataset.on_error == "warn":
            self._warn(head.skipped, stream)
        return batch

    def _failed(self, error: BaseException) -> None:
        """Before the first batch nothing has happened yet; later, most failures end the pass."""
        if self._progress is None:
            return
        if self._progress.batches == 0:
            self._dataset._course.give_back(self._progress.began, this_worker())
            self._progress = None
        elif not isinstance(error, (KeyboardInterrupt, TimeoutError)):
            self._done = True

    def _warn(self, count: int, stream: _native.Stream) -> None:
        keys = ", ".join(stream.stats()["skipped_keys"][-count:][:5])
        warnings.warn(
            f"{count} samples were left out of a batch, among them: {keys}",
            SkippedSampleWarning,
            stacklevel=4,
        )

"""Where the iterations of a dataset stand in one process: which is next, and which is running."""

from __future__ import annotations

import os
from collections.abc import Callable

from ._epochs import MAIN, Ledger, Plan
from ._iteration import Progress
from ._ranks import Worker

_FIRST = Plan(0, 0)


class Course:
    """The plans of a dataset's iterations: the next one's, and how far the last one has come.

    Belongs to one process. What it shares with copies of the dataset in DataLoader workers is
    the ledger.
    """

    def __init__(self, next_: Plan = _FIRST, ledger: Ledger | None = None) -> None:
        self.ledger = Ledger() if ledger is None else ledger
        self.running: Progress | None = None  # the one iteration that the stream serves
        self._progress: Progress | None = None  # the same, unless a plan was set since
        self._default = next_  # of an iteration here, where nothing is written down
        self._own: Plan | None = None  # a state that was loaded in a worker, by a stateful loader
        self._rounds = 0  # iterations begun in this worker

    # -- the next iteration ------------------------------------------------------------------

    def pending(self) -> Plan:
        """The plan of the next iteration, as far as this process can know."""
        return self._own or self.ledger.peek(os.getpid(), self._default)

    def set(self, plan: Plan) -> None:
        """Let the next iteration, here or in this process's workers, take a plan."""
        self._default = plan
        self._progress = None
        self.ledger.set(os.getpid(), plan)

    def load(self, plan: Plan, worker: Worker | None) -> None:
        """Let the next iteration go on where a saved state stands; a worker's is its own."""
        if worker is not None:
            self._own = plan
        self.set(plan)

    def take(self, worker: Worker | None) -> Plan:
        """What an iteration that begins is to yield; the next one gets the epoch after it."""
        if worker is None:
            began = self.ledger.begin(os.getpid(), self._default)
            self._default = Plan(began.epoch + 1, 0)
            return began
        own, self._own = self._own, None
        self._rounds += 1
        return self.ledger.join(
            worker.trainer, worker.seed, self._rounds, worker.number, self._default, own
        )

    def give_back(self, began: Plan, worker: Worker | None) -> None:
        """Let the next iteration take the plan of one that failed before its first batch."""
        self.ledger.set(os.getpid() if worker is None else worker.trainer, began)
        self.running = self._progress = None

    # -- the running one ---------------------------------------------------------------------

    def begin(self, began: Plan, step: int) -> Progress:
        """Note that an iteration has begun; a step is all ranks' samples."""
        self.running = self._progress = Progress(began, step)
        return self.running

    def stop(self) -> None:
        """End the running iteration."""
        self.running = None

    def epoch(self) -> int:
        """The epoch that is, or will next be, iterated."""
        plan = self.pending() if self._progress is None else self._progress.plan()
        return plan.epoch

    def share(self, worker: Worker) -> Plan | None:
        """From where a worker's share is what it has not handed out yet, if it has begun."""
        return None if self._progress is None else self._progress.for_worker(worker)

    def here(self, consumed: int | None, step: Callable[[], int]) -> Plan:
        """Behind the last batch that was handed out, or behind so many of the epoch's batches.

        Raises:
            ValueError: only the caller can know how many batches were consumed, or none can be.
        """
        if self._progress is not None and self._progress.pid == os.getpid():
            if consumed is None:
                return self._progress.plan()
            return _after(self._progress.began, consumed * step())
        last = self.ledger.last(os.getpid()) if self._progress is None else None
        if last is None or last.worker == MAIN:
            if consumed:
                raise ValueError("no batch of this epoch was handed out yet: leave consumed out")
            return self.pending()
        if consumed is None:
            raise ValueError(
                "DataLoader workers read ahead, so this process must say how many batches of the "
                "epoch it has used: state_dict(consumed=...); or use num_workers=0"
            )
        return _after(last.plan, consumed * step())


def _after(began: Plan, samples: int) -> Plan:
    return Plan(began.epoch, began.position + samples)

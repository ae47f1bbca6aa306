"""Which epoch, from which position, each iteration of a dataset takes.

A DataLoader's workers iterate copies of the dataset, and throw them away or keep them as they
please; yet epochs must advance, all workers of one pass must take the same epoch, a resumed
position must be taken exactly once, and set_epoch must reach workers that live on. So a dataset
and its copies in worker processes share a page of memory, on which every iteration is written
down.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import multiprocessing.context
import multiprocessing.reduction
import os
import struct
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_EPOCH = 2**62

_SLOTS = 1024
_ENTRY = struct.Struct("<8q")
_HEAD = struct.Struct("<q120s")  # number of entries ever written, snapshot id
_ORDER = struct.Struct("<24576s")  # the shuffle of each of up to 1000 sources
_FIRST = _HEAD.size + _ORDER.size  # where entries begin
_SIZE = _FIRST + _SLOTS * _ENTRY.size

_SET, _BEGAN = 1, 2
MAIN = -1  # the worker number of an iteration that is not in a DataLoader worker


class Plan(NamedTuple):
    """An epoch, and the position in it to begin at."""

    epoch: int
    position: int


class Began(NamedTuple):
    """An iteration that has begun: its plan, and the worker (or MAIN) that wrote it down last."""

    plan: Plan
    worker: int


class _Entry(NamedTuple):
    kind: int
    trainer: int  # pid of the process that the workers work for
    seed: int  # of the DataLoader's pass
    round: int  # of the worker, for workers that live on
    worker: int
    epoch: int
    position: int
    number: int  # of the pass: the count of entries when its first worker began


class Ledger:
    """The shared page. A plain pickle of it is a new, empty one; a worker's is the same one."""

    def __init__(self, fd: int = -1) -> None:
        if fd < 0:
            fd = os.memfd_create("shardstream-epochs", os.MFD_CLOEXEC)
            os.ftruncate(fd, _SIZE)
        self._fd = fd
        self._page = mmap.mmap(fd, _SIZE)
        self._pid = os.getpid()
        self._threads = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        if multiprocessing.context.get_spawning_popen() is None:
            return Ledger, ()
        return _attach, (multiprocessing.reduction.DupFd(self._fd),)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._fd)

    def set(self, trainer: int, plan: Plan) -> None:
        """Let the next iteration of a process, or of its workers, take this plan."""
        with self._locked():
            self._append(_Entry(_SET, trainer, 0, 0, MAIN, *plan, 0))

    def begin(self, trainer: int, default: Plan) -> Plan:
        """Take the next plan for an iteration in the process itself."""
        with self._locked():
            plan = self._next(trainer, default)
            self._append(_Entry(_BEGAN, trainer, 0, 0, MAIN, *plan, 0))
            return plan

    def join(
        self, trainer: int, seed: int, round_: int, worker: int, default: Plan, own: Plan | None
    ) -> Plan:
        """Take the plan of a DataLoader's pass, the next one for the pass's first worker.

        Args:
            trainer: the process that the worker works for.
            seed: the pass's base seed, the same in all of its workers.
            round_: how often this worker has begun before.
            worker: its number. The same number again means another pass, even where its seed
                was set to the same value.
            default: what applies if nothing is written down for the trainer.
            own: a plan that this worker alone was given, by a saved state of its own.
        """
        with self._locked():
            number = self._open_pass(trainer, seed, round_, worker)
            if number < 0:
                number = _HEAD.unpack_from(self._page)[0]
                plan = own or self._next(trainer, default)
            else:
                plan = own or self._plan_of(number)
            self._append(_Entry(_BEGAN, trainer, seed, round_, worker, *plan, number))
            return plan

    def peek(self, trainer: int, default: Plan) -> Plan:
        """The plan that the next iteration would take."""
        with self._locked():
            return self._next(trainer, default)

    def last(self, trainer: int) -> Began | None:
        """The iteration that began last, unless set() came after it."""
        with self._locked():
            for entry in reversed(list(self._entries())):
                if entry.trainer == trainer:
                    if entry.kind == _SET:
                        return None
                    return Began(Plan(entry.epoch, entry.position), entry.worker)
        return None

    @property
    def snapshot(self) -> str:
        """The id of the snapshot that was streamed last, "" before."""
        text: bytes = _HEAD.unpack_from(self._page)[1]
        return text.rstrip(b"\0").decode()

    @snapshot.setter
    def snapshot(self, value: str) -> None:
        with self._locked():
            count = _HEAD.unpack_from(self._page)[0]
            _HEAD.pack_into(self._page, 0, count, value.encode()[:120])

    @property
    def order(self) -> str:
        """The shuffles of what was streamed last, or of a loaded state, as text; "" before."""
        text: bytes = _ORDER.unpack_from(self._page, _HEAD.size)[0]
        return text.rstrip(b"\0").decode()

    @order.setter
    def order(self, value: str) -> None:
        with self._locked():
            _ORDER.pack_into(self._page, _HEAD.size, value.encode())

    def _open_pass(self, trainer: int, seed: int, round_: int, worker: int) -> int:
        """The pass that a worker belongs to, -1 where it is the first of a new one."""
        found = -1
        for entry in reversed(list(self._entries())):
            if entry.trainer != trainer:
                continue
            if entry.kind == _SET:
                break
            if (entry.seed, entry.round) != (seed, round_):
                continue
            if found < 0:
                found = entry.number
            if entry.number == found and entry.worker == worker:
                return -1
        return found

    def _plan_of(self, number: int) -> Plan:
        return next(
            Plan(e.epoch, e.position)
            for e in self._entries()
            if e.kind == _BEGAN and e.worker != MAIN and e.number == number
        )

    def _next(self, trainer: int, default: Plan) -> Plan:
        for entry in reversed(list(self._entries())):
            if entry.trainer != trainer:
                continue
            if entry.kind == _SET:
                return Plan(entry.epoch, entry.position)
            return Plan(entry.epoch + 1, 0)
        return default

    def _entries(self) -> Iterator[_Entry]:
        """What is written down, oldest first; the page forgets what is older."""
        count = _HEAD.unpack_from(self._page)[0]
        for number in range(max(0, count - _SLOTS), count):
            at = _FIRST + number % _SLOTS * _ENTRY.size
            yield _Entry._make(_ENTRY.unpack_from(self._page, at))

    def _append(self, entry: _Entry) -> None:
        count, snapshot = _HEAD.unpack_from(self._page)
        _ENTRY.pack_into(self._page, _FIRST + count % _SLOTS * _ENTRY.size, *entry)
        _HEAD.pack_into(self._page, 0, count + 1, snapshot)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._pid != os.getpid():  # a thread of the parent may have held it at the fork
            self._pid, self._threads = os.getpid(), threading.Lock()
        with self._threads:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)


def _attach(fd: Any) -> Ledger:
    """In a worker: the page of the process that started it."""
    return Ledger(fd.detach())

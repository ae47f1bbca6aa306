"""The Go loader in this process: loaded at the first batch, never at import, and not after a fork.

The Go runtime does not survive fork(): calls into it from a forked child hang. So every way into
it checks whose process this is first, and a child gets an exception that names the way out.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import mmap
import os
import time
from collections.abc import Mapping
from typing import Any, Protocol, cast

from ._exceptions import (
    ClosedError,
    DeadlineError,
    ForkedError,
    InternalError,
    from_code,
    from_sample,
)

#: Python can act on Ctrl-C only between calls into Go, so that no call waits longer than this.
_SLICE_MS = 50
#: The loader gives up on a target after the timeout, with a better reason than ours: let it.
_GRACE_S = 1.0

_END = -1
_NOTHING = -2
_SLOT_SHIFT = 48


class Binding(Protocol):
    """The functions of the Go package pybind, as gopy exports them."""

    def pybind_Version(self) -> str: ...
    def pybind_Open(self, config: str) -> int: ...
    def pybind_Start(self, stream: int, iteration: str) -> int: ...
    def pybind_Next(self, stream: int, timeout_ms: int) -> int: ...
    def pybind_Release(self, stream: int, slot: int) -> int: ...
    def pybind_SlotFd(self, stream: int, slot: int) -> int: ...
    def pybind_SlotSize(self, stream: int, slot: int) -> int: ...
    def pybind_Stats(self, stream: int) -> str: ...
    def pybind_Close(self, stream: int) -> int: ...


_binding: Binding | None = None
_forked_from: int | None = None


def _note_fork() -> None:
    """Runs in every child that is forked after the loader was loaded."""
    global _forked_from
    _forked_from = os.getppid()


def loaded() -> bool:
    """Whether Go runs in this process, or ran in the one that it was forked from."""
    return _binding is not None


def binding() -> Binding:
    """The loader, loaded now if it is not yet.

    Raises:
        ForkedError: this process was forked from one that had loaded it.
        ImportError: the package was installed without its native part.
    """
    global _binding
    check_fork()
    if _binding is None:
        try:
            module = importlib.import_module("shardstream._core._pybind")
        except ImportError as error:
            raise ImportError(
                f"shardstream's native loader is missing or does not fit this Python: {error}. "
                "Install the package with pip (a source checkout is not enough)"
            ) from error
        os.register_at_fork(after_in_child=_note_fork)
        _binding = cast(Binding, module)
    return _binding


def check_fork() -> None:
    """Raise ForkedError in a child of a process that used the loader."""
    if _forked_from is not None:
        raise ForkedError(
            f"process {_forked_from} had streamed with shardstream before it forked this one, "
            "and Go does not survive a fork. With DataLoader use num_workers=0 (the fast path: "
            "the loader reads ahead by itself), or multiprocessing_context='forkserver' or "
            "'spawn'; or start the workers before the first batch is read in the parent"
        )


def _translate(error: RuntimeError) -> Exception:
    """The exception for what Go returned: "code|message"."""
    code, bar, message = str(error).partition("|")
    if not bar:
        return InternalError(str(error))
    if code == "sample_error":
        return from_sample(message)
    return from_code(code, message)


class Slot:
    """This process's mapping of one slot of a stream's arena."""

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self.memory = mmap.mmap(fd, size)  # keeps a duplicate of fd: outlives Go's own mapping
        self.lease_type = type("Lease", (_LeaseBase, ctypes.c_ubyte * size), {})


class _LeaseBase:
    """A batch's hold on its slot: all views lie on it, and the last one to go gives it back."""

    stream: Stream | None = None
    slot = -1

    def __del__(self) -> None:
        if self.stream is not None:
            self.stream.release(self.slot)


class Stream:
    """One loader and its arena; the owner of an id in Go.

    Args:
        config: as pybind.Open takes it.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._binding = binding()
        self._pid = os.getpid()
        self._timeout = float(config["timeout_s"])
        self._slots: dict[int, Slot] = {}
        self._closed = False
        self.held = 0  # batches that are still referred to
        self._id = -1
        self._id = self._call(self._binding.pybind_Open, json.dumps(config))

    def start(self, iteration: Mapping[str, Any]) -> None:
        """Begin an iteration, as pybind.Start takes it; an earlier one ends."""
        self._check()
        self._call(self._binding.pybind_Start, self._id, json.dumps(iteration))

    def next(self) -> tuple[Any, int] | None:
        """Wait for the next batch: (its memory, the offset of its table), or None at the end.

        The memory is a ctypes array; the slot is given back once nothing refers to it any more.
        """
        self._check()
        deadline = time.monotonic() + self._timeout + _GRACE_S
        while True:
            batch = self._call(self._binding.pybind_Next, self._id, _SLICE_MS)
            if batch >= 0:
                break
            if batch == _END:
                return None
            if batch != _NOTHING or time.monotonic() > deadline:
                raise DeadlineError(self._late())
        slot, table = batch >> _SLOT_SHIFT, batch & ((1 << _SLOT_SHIFT) - 1)
        return self._lease(slot), table

    def release(self, slot: int) -> None:
        """Give a slot back. Called by finalizers, in any thread, so that nothing is raised."""
        self.held -= 1
        if self._closed or self._pid != os.getpid():
            return
        try:
            self._binding.pybind_Release(self._id, slot)
        except RuntimeError:  # closed in the meantime
            return

    def stats(self) -> dict[str, Any]:
        """The loader's counts."""
        self._check()
        counts: dict[str, Any] = json.loads(self._call(self._binding.pybind_Stats, self._id))
        return counts

    def close(self) -> None:
        """End the loader; views stay readable. In a forked child it only lets go."""
        if self._closed:
            return
        self._closed = True
        self._slots.clear()
        if self._id >= 0 and self._pid == os.getpid():
            self._call(self._binding.pybind_Close, self._id)

    def __del__(self) -> None:
        self.close()

    def _lease(self, number: int) -> Any:
        size = self._call(self._binding.pybind_SlotSize, self._id, number)
        slot = self._slots.get(number)
        if slot is None or slot.size < size:
            fd = self._call(self._binding.pybind_SlotFd, self._id, number)
            slot = self._slots[number] = Slot(fd, size)
        lease = slot.lease_type.from_buffer(slot.memory)  # type: ignore[attr-defined]
        lease.slot = number
        lease.stream = self
        self.held += 1
        return lease

    def _late(self) -> str:
        text = (
            f"no batch for {self._timeout:g} s: look at `shardstream status`, or raise the "
            "dataset's timeout"
        )
        if self.held > 0:
            text += (
                f". {self.held} earlier batches are still referred to, which keeps their memory: "
                "copy what you keep of a batch (tensor.clone(), array.copy(), bytes(view))"
            )
        return text

    def _check(self) -> None:
        check_fork()
        if self._closed:
            raise ClosedError("this stream is closed")

    def _call(self, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except RuntimeError as error:
            raise _translate(error) from None

"""CPU and memory of other processes, as the kernel counts them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


class ProcessGoneError(RuntimeError):
    """A process that was being measured has ended."""


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time so far of the processes and of the children that they reaped."""
    ticks = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError) as e:
            raise ProcessGoneError(f"process {pid} ended while it was measured") from e
        # The name, in brackets, may hold anything; utime is field 14 of all, the 12th after it.
        ticks += sum(map(int, stat.rpartition(")")[2].split()[11:15]))
    return ticks / TICK


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def memory_mb(pids: Iterable[int]) -> float:
    """Memory of processes, anonymous and shared, each shared page divided among its users.

    Pages of files count for nothing: they are the page cache's, which the kernel takes back when
    it needs memory. Processes that have ended count for nothing either.
    """
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(
            int(line.split()[1])
            for line in rollup.splitlines()
            if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
        )
    return total * 1024 / 1e6


class PeakMemory:
    """Samples the memory of groups of processes until told to stop; a context manager.

    It takes CPU from what it looks at, so it belongs into rounds whose rates do not count.
    """

    def __init__(
        self, groups: Mapping[str, Callable[[], Iterable[int]]], every_s: float = 0.05
    ) -> None:
        self.peak_mb = dict.fromkeys(groups, 0.0)
        self._groups = groups
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def sample(self) -> None:
        for name, pids in self._groups.items():
            self.peak_mb[name] = max(self.peak_mb[name], memory_mb(pids()))

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.sample()

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

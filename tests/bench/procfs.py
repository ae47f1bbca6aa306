"""CPU and memory of other processes, as the kernel counts them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
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


def pss_mb(pid: int) -> float:
    """Proportional set size of a process tree; 0 for what has ended."""
    total = 0
    for member in tree(pid):
        try:
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(
            int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
        )
    return total * 1024 / 1e6


class PeakMemory:
    """Samples the PSS of a process tree until told to stop; a context manager."""

    def __init__(self, pid: int, every_s: float = 0.05) -> None:
        self.peak_mb = 0.0
        self._pid = pid
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._stop.wait(self._every_s):
            self.peak_mb = max(self.peak_mb, pss_mb(self._pid))

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

"""Clients of one pass: processes that are started together, and their figures as one.

Each says "ready" once its packages are imported; only then all begin, so that imports, which are
seconds of CPU for some packages, are no part of any figure.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from itertools import pairwise
from statistics import median
from typing import IO, Any

import procfs
from localcluster import free_port

TIMEOUT_S = 180
READY = "ready"

Figures = dict[str, Any]


class ClientError(RuntimeError):
    """A client failed; the message ends with what it wrote."""


class Clients:
    """Running processes of one command, ranks 0 to count-1 of one job; a context manager."""

    def __init__(self, command: list[str], count: int, environment: dict[str, str]) -> None:
        self._command = command
        self._processes: list[subprocess.Popen[str]] = []
        self._logs: list[IO[str]] = []
        self._late = False
        self._stack = ExitStack()
        job = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        with ExitStack() as stack:
            for rank in map(str, range(count)):
                log = stack.enter_context(tempfile.TemporaryFile("w+"))
                process = subprocess.Popen(
                    command,
                    env={**environment, **job, "RANK": rank, "LOCAL_RANK": rank},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                stack.enter_context(process)
                stack.callback(process.kill)  # does nothing once it was waited for
                self._processes.append(process)
                self._logs.append(log)
            # One that waits for another that has failed would wait for ever.
            timer = threading.Timer(TIMEOUT_S, self._kill)
            timer.start()
            stack.callback(timer.cancel)
            for i, process in enumerate(self._processes):
                self._wait_ready(i, process)
            self._stack = stack.pop_all()

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pids(self) -> list[int]:
        """All processes, with their children."""
        return [pid for process in self._processes for pid in procfs.tree(process.pid)]

    def run(self) -> list[Any]:
        """Lets all begin, and waits for the figures of each."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        figures = []
        for i, process in enumerate(self._processes):
            out, _ = process.communicate()
            if process.returncode != 0:
                raise self._error(i, f"exit {process.returncode}")
            figures.append(json.loads(out.splitlines()[-1]))
        return figures

    def _wait_ready(self, i: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == READY:
                return
        raise self._error(i, "ended before it was ready")

    def _kill(self) -> None:
        self._late = True
        for process in self._processes:
            process.kill()

    def _error(self, i: int, what: str) -> ClientError:
        self._logs[i].seek(0)
        log = self._logs[i].read().strip()
        if self._late:
            what = f"not done after {TIMEOUT_S} s"
        return ClientError(f"{' '.join(self._command[:4])} ...: {what}\n{log[-2000:]}")


def together(clients: list[Figures]) -> Figures:
    """The clients' figures as those of one reader.

    "first" and "steady" are rates: of the first epoch, opening included, and of all later ones.
    Each goes from the first client's start to the last one's end.
    """
    epochs = [client["epochs"] for client in clients]
    first = _span([e[:1] for e in epochs])
    later = [e[1:] for e in epochs]
    starts = [e[0]["first"] - e[0]["start"] for e in epochs]
    gaps = [b["first"] - a["last"] for e in epochs for a, b in pairwise(e)]
    rates = [e[0]["bytes"] / (e[0]["end"] - e[0]["start"]) for e in epochs]
    return {
        "first": first,
        "steady": _span(later) if all(later) else None,
        "bytes": sum(e["bytes"] for client in epochs for e in client),
        "first_batch_s": max(starts),
        "gap_s": median(gaps) if gaps else None,
        "fairness": min(rates) / max(rates),
        "rss_peak_mb": max(client["rss_peak_mb"] for client in clients),
    }


def _span(epochs: list[list[Figures]]) -> Figures:
    flat = [e for client in epochs for e in client]
    return {
        "wall_s": max(e["end"] for e in flat) - min(e["start"] for e in flat),
        "cpu_s": sum(e["cpu_s"] for e in flat),
        "bytes": sum(e["bytes"] for e in flat),
        "samples": sum(e["samples"] for e in flat),
    }

"""One run's passes: how each case's clients are started, and whose CPU their server side is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import procfs
from cases import LIMIT, MEMCPY, OURS, OVER_HTTP, SENDFILE, Case
from clients import Clients, Figures, together
from localcluster import Cluster
from shards import Manifest

HERE = Path(__file__).resolve().parent

ABOUT_CLIENTS = ("version", "quality", "stats")  # what the first client says, beside its figures

Row = dict[str, Any]


class WrongTransportError(RuntimeError):
    """Ours went another way than the case is named for."""


class WrongDataError(RuntimeError):
    """A fast pass over the wrong bytes is worth nothing."""


@dataclass(frozen=True)
class Turn:
    """One pass of the schedule."""

    case: Case
    data: str
    clients: int
    round: int  # 0 warms up

    @property
    def warm_up(self) -> bool:
        return self.round == 0


def schedule(
    cases: list[Case], data: Iterable[str], clients: Iterable[int], rounds: int
) -> Iterator[Turn]:
    """All turns: the rounds outermost, so that the turns of a case lie far apart.

    Several clients take turns in all rounds but the last: they cost most of the time.
    """
    names, counts = list(data), list(clients)
    for round_ in range(rounds + 1):
        for name in names:
            for count in counts[:1] if round_ == 0 else counts:
                if count > 1 and 1 < rounds == round_:
                    continue
                for case in cases:
                    if count <= case.most_clients:
                        yield Turn(case, name, count, round_)


class Suite:
    """Runs turns on the data sets and servers that are there."""

    def __init__(
        self,
        manifests: dict[str, Manifest],
        data: Path,
        cluster: Cluster,
        helper: Path,
        tcp: Loopback,
        least_bytes: int,
    ) -> None:
        self._manifests = manifests
        self._data = data
        self._cluster = cluster
        self._nodes = cluster.pids()
        self._helper = helper
        self._tcp = tcp
        self._least_bytes = least_bytes  # that a pass of a limit moves

    def run(self, turn: Turn, shards: int | None = None) -> Row:
        """The figures of one pass; with shards, of one over the first shards only."""
        servers = self._servers(turn.case)
        environment = {**self._cluster.environment(), **turn.case.environment}
        with ExitStack() as stack:
            group = stack.enter_context(
                Clients(self._command(turn, shards), turn.clients, environment)
            )
            memory = procfs.PeakMemory({"clients": group.pids, **_fixed(servers)})
            memory.sample()
            idle = memory.peak_mb.copy()
            if turn.warm_up and turn.case.kind != LIMIT:
                stack.enter_context(memory)
            before = {role: procfs.cpu_seconds(pids) for role, pids in servers.items()}
            figures = group.run()
            cpu = {role: procfs.cpu_seconds(pids) - before[role] for role, pids in servers.items()}
        row = {
            "case": turn.case.name, "data": turn.data, "clients": turn.clients,
            "round": turn.round, "load": os.getloadavg()[0], "server_cpu_s": cpu,
            **together(figures),
            **{key: figures[0][key] for key in ABOUT_CLIENTS if key in figures[0]},
        }  # fmt: skip
        if turn.warm_up and turn.case.kind != LIMIT:
            row["memory_mb"] = memory.peak_mb
            row["memory_idle_mb"] = idle
        if turn.case.kind != LIMIT:
            self._check(turn, figures, row, shards)
            _check_transport(turn.case, figures)
        return row

    def quarter(self, data: str) -> int:
        """A quarter of the shards of a data set."""
        return max(1, len(self._manifests[data].shards) // 4)

    def nodes_unchanged(self) -> bool:
        return self._cluster.pids() == self._nodes

    def _command(self, turn: Turn, shards: int | None) -> list[str]:
        case, manifest = turn.case, self._manifests[turn.data]
        total = max(manifest.payload_bytes, self._least_bytes) // turn.clients
        python = [sys.executable, "-W", "ignore", str(HERE / "passes.py")]
        folder = str(self._data / turn.data)
        if case.name == MEMCPY:
            return [*python, MEMCPY, folder, "--bytes", str(total)]
        if case.kind == LIMIT:
            files = ["--files"] if case.name == SENDFILE else []
            batch = manifest.spec.batch * manifest.spec.mean_bytes
            numbers = map(str, (total, batch, case.epochs))
            return [str(self._helper), "fetch", *files, self._tcp.addr, *numbers]
        # Round 0 of a peer is long as it is: its bytes are all checked, once.
        epochs = 1 if turn.warm_up and case.kind != OURS else case.epochs
        check = ["--check"] if turn.warm_up and turn.clients == 1 else []
        part = ["--shards", str(shards)] if shards else []
        return [*python, case.reader, folder, "--epochs", str(epochs), *check, *part]

    def _servers(self, case: Case) -> dict[str, list[int]]:
        if case.kind == OURS or case.name == OVER_HTTP:
            return self._nodes
        return {"server": [self._tcp.pid]} if case.kind == LIMIT and case.name != MEMCPY else {}

    def _check(self, turn: Turn, figures: list[Figures], row: Row, shards: int | None) -> None:
        """Every epoch of ours is exact; peers may drop or repeat samples, which is then shown."""
        manifest = self._manifests[turn.data]
        manifest = manifest.part(shards or len(manifest.shards))
        want = (manifest.samples, manifest.payload_bytes)
        epochs = zip(*(client["epochs"] for client in figures), strict=True)
        got = [(sum(e["samples"] for e in es), sum(e["bytes"] for e in es)) for es in epochs]
        row["exact"] = all(epoch == want for epoch in got)
        row["samples_lost"] = max(abs(want[0] - samples) for samples, _ in got)
        crc_sum = figures[0]["epochs"][0]["crc_sum"]
        if "quality" in row:
            row["exact"] &= row["quality"]["exactly_once"] and crc_sum == manifest.crc_sum
        if turn.case.kind == OURS and not row["exact"]:
            raise WrongDataError(
                f"{turn.case.name} on {turn.data}, {turn.clients} clients: epochs of (samples, "
                f"bytes) {got}, not {want}; or the wrong bytes: CRC sum {crc_sum}, not "
                f"{manifest.crc_sum}; {row.get('quality', '')}"
            )
        if "quality" in row and not row["exact"]:
            raise WrongDataError(f"{turn.case.name} on {turn.data} delivered the wrong bytes")


def _check_transport(case: Case, clients: list[Figures]) -> None:
    targets = [t for c in clients for t in c.get("stats", {}).get("targets", {}).values()]
    if used := {target["transport"] for target in targets} - {case.transport}:
        raise WrongTransportError(
            f"{case.title}: the stream used {', '.join(sorted(used))} instead of {case.transport}"
        )


def _fixed(servers: dict[str, list[int]]) -> dict[str, Any]:
    return {role: (lambda pids=pids: pids) for role, pids in servers.items()}


class Loopback:
    """The running server side of plain TCP."""

    def __init__(self, pid: int, addr: str) -> None:
        self.pid = pid
        self.addr = addr


@contextmanager
def serving(helper: Path, files: list[Path]) -> Iterator[Loopback]:
    server = subprocess.Popen(
        [helper, "serve", *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        yield Loopback(server.pid, server.stdout.readline().strip())
    finally:
        server.stdin.close()  # ends it
        server.wait(timeout=10)
        server.stdout.close()

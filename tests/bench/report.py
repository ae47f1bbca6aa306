"""From the raw lines of a run to its tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from cases import CASES, LIMIT, MEMCPY, OVER_HTTP, TCP

Row = dict[str, Any]
Value = Callable[[Row], float | None]


def rate(row: Row) -> float | None:
    """MB/s of the epochs after the first; of the first where there is but one."""
    return _rate(row["steady"] or row["first"])


def first_rate(row: Row) -> float | None:
    """MB/s of the first epoch, opening included."""
    return _rate(row["first"])


def _rate(span: Row) -> float | None:
    return float(span["bytes"] / 1e6 / span["wall_s"])


def samples_s(row: Row) -> float | None:
    span = row["steady"] or row["first"]
    return float(span["samples"] / span["wall_s"]) if span["samples"] else None


def cpu_gb(row: Row) -> float | None:
    """CPU seconds of the clients for each GB, in the same epochs as rate."""
    span = row["steady"] or row["first"]
    return float(span["cpu_s"] / (span["bytes"] / 1e9))


def first_cpu_gb(row: Row) -> float | None:
    return float(row["first"]["cpu_s"] / (row["first"]["bytes"] / 1e9))


def targets_gb(row: Row) -> float | None:
    """CPU seconds of the targets, or of the plain TCP server, for each GB of the whole pass."""
    return _server_gb(row, ("target", "server"))


def gateway_gb(row: Row) -> float | None:
    return _server_gb(row, ("gateway",))


def _server_gb(row: Row, roles: tuple[str, ...]) -> float | None:
    used = [seconds for role, seconds in row["server_cpu_s"].items() if role in roles]
    return float(sum(used) / (row["bytes"] / 1e9)) if used else None


def fairness(row: Row) -> float | None:
    """The slowest client's rate in the first epoch, over the fastest one's."""
    return float(row["fairness"])


def first_batch_ms(row: Row) -> float | None:
    return float(row["first_batch_s"] * 1e3)


def gap_ms(row: Row) -> float | None:
    """From the last batch of an epoch to the first one of the next."""
    return None if row["gap_s"] is None else float(row["gap_s"] * 1e3)


class Run:
    """What a run measured: rows by data set, number of clients, case and round."""

    def __init__(self, lines: Iterable[dict[str, Any]]) -> None:
        self.about: Row = {}
        self.data: dict[str, Row] = {}
        self.single: Row = {}  # figures of storage.py, merged
        self.skipped: list[Row] = []
        self.took_s: float | None = None
        self.loads: list[float] = []
        self._rows: dict[tuple[str, int, str], dict[int, Row]] = {}
        self._warm: dict[tuple[str, str], Row] = {}
        self._part: dict[tuple[str, str], Row] = {}
        for line in lines:
            ((kind, value),) = line.items()
            if kind == "about":
                self.about = value
            elif kind == "data":
                self.data[value["name"]] = value
            elif kind == "single":
                self.single |= value
            elif kind == "skipped":
                self.skipped.append(value)
            elif kind == "took_s":
                self.took_s = value
            elif kind == "part":
                self._part[value["data"], value["case"]] = value
            elif kind == "row":
                self._add(value)

    @classmethod
    def load(cls, raw: Path) -> Run:
        return cls(map(json.loads, raw.read_text().splitlines()))

    def _add(self, row: Row) -> None:
        self.loads.append(row["load"])
        if row["round"] == 0:
            self._warm[row["data"], row["case"]] = row
        else:
            self._rows.setdefault((row["data"], row["clients"], row["case"]), {})[row["round"]] = (
                row
            )

    def cases(self, data: str, clients: int = 1) -> list[str]:
        return [name for name in CASES if (data, clients, name) in self._rows]

    def clients(self, data: str) -> list[int]:
        return sorted({clients for name, clients, _ in self._rows if name == data})

    def rows(self, data: str, case: str, clients: int = 1) -> dict[int, Row]:
        return self._rows.get((data, clients, case), {})

    def all(self, data: str, case: str, value: Value, clients: int = 1) -> list[float]:
        """The values of all measured rounds, where there are any."""
        values = (value(row) for row in self.rows(data, case, clients).values())
        return [v for v in values if v is not None]

    def mid(self, data: str, case: str, value: Value, clients: int = 1) -> float | None:
        values = self.all(data, case, value, clients)
        return median(values) if values else None

    def ratio(self, data: str, a: str, b: str, value: Value, clients: int = 1) -> float | None:
        """The median over rounds of a's value to b's of the same round."""
        ours, theirs = self.rows(data, a, clients), self.rows(data, b, clients)
        both = [(value(ours[r]), value(theirs[r])) for r in ours if r in theirs]
        ratios = [x / y for x, y in both if x is not None and y]
        return median(ratios) if ratios else None

    def warm(self, data: str, case: str) -> Row:
        """The checked pass of the case: its order, its memory."""
        return self._warm.get((data, case), {})

    def part(self, data: str, case: str) -> Row:
        """The checked pass over a quarter of the shards."""
        return self._part.get((data, case), {})


def show(value: float | None, form: str = ",.0f") -> str:
    return "-" if value is None else format(value, form)


def markdown(lines: list[list[str]]) -> str:
    """A table with a line of heads; all columns but the first are numbers."""
    rule = ["---"] + ["--:"] * (len(lines[0]) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [lines[0], rule, *lines[1:]])


def stream_table(run: Run, data: str) -> str:
    """One client: a line a case, medians over the rounds, with the range of the rate."""
    head = [
        "case", "MB/s (min-max)", "first epoch MB/s", "samples/s", "x TCP", "x webdataset HTTP",
        "client CPU s/GB", "targets' CPU s/GB", "gateway's CPU s/GB", "client memory MB",
        "targets' memory MB", "client RSS MB", "first batch ms", "between epochs ms",
    ]  # fmt: skip
    lines = [head]
    for case in run.cases(data):
        rates = run.all(data, case, rate)
        is_limit = CASES[case].kind == LIMIT
        memory = _memory(run.warm(data, case))
        lines.append([
            CASES[case].title,
            f"{median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})",
            "-" if is_limit else show(run.mid(data, case, first_rate)),
            show(run.mid(data, case, samples_s)),
            show(run.ratio(data, case, TCP, rate), ".3g"),
            show(run.ratio(data, case, OVER_HTTP, rate), ".3g"),
            show(run.mid(data, case, cpu_gb), ".2f"),
            show(run.mid(data, case, targets_gb), ".2f"),
            show(run.mid(data, case, gateway_gb), ".2f"),
            memory["clients"], memory["target"],
            "-" if case == MEMCPY else show(run.mid(data, case, lambda r: r["rss_peak_mb"])),
            "-" if is_limit else show(run.mid(data, case, first_batch_ms)),
            "-" if is_limit else show(run.mid(data, case, gap_ms), ".1f"),
        ])  # fmt: skip
    return markdown(lines)


def _memory(warm: Row) -> dict[str, str]:
    """Peaks, with what there was before the pass began."""
    peaks, idle = warm.get("memory_mb", {}), warm.get("memory_idle_mb", {})
    return {
        role: f"{peaks[role]:,.0f} ({idle[role]:,.0f})" if role in peaks else "-"
        for role in ("clients", "target")
    }


def order_table(run: Run) -> str:
    """How well each loader mixes an epoch, from the checked pass."""
    head = ["case", "samples", "same-shard pairs, mean", "worst batch", "random is",
            "neighbour distance / ideal", "exactly once"]  # fmt: skip
    lines = [head]
    for data in run.data:
        for case in run.cases(data):
            if quality := run.warm(data, case).get("quality"):
                lines.append([
                    CASES[case].title, data,
                    *(show(quality[key], ".3f") for key in ("pairs", "pairs_worst", "pairs_ideal")),
                    show(quality["distance"], ".2f"),
                    "yes" if quality["exactly_once"] else "NO",
                ])  # fmt: skip
    return markdown(lines)


def clients_table(run: Run, data: str) -> str:
    """Several clients at once, ranks of one job: their rate together."""
    counts = run.clients(data)
    head = ["case", *(f"{n} MB/s" for n in counts), *(f"{n} CPU s/GB" for n in counts),
            *(f"slowest / fastest of {n}" for n in counts if n > 1)]  # fmt: skip
    lines = [head]
    for case in run.cases(data):
        if case == MEMCPY:
            continue
        lines.append([
            CASES[case].title + _losses(run, data, case),
            *(show(run.mid(data, case, rate, n)) for n in counts),
            *(show(run.mid(data, case, cpu_gb, n), ".2f") for n in counts),
            *(show(run.mid(data, case, fairness, n), ".2f") for n in counts if n > 1),
        ])  # fmt: skip
    return markdown(lines)


def _losses(run: Run, data: str, case: str) -> str:
    """A word on a loader that gave several ranks more or fewer samples than there are."""
    lost = {
        n: max(row.get("samples_lost", 0) for row in rows.values())
        for n in run.clients(data)
        if (rows := run.rows(data, case, n))
    }
    worst = max(lost.values(), default=0)
    return f" (off by {worst} sample{'s' * (worst > 1)})" if worst else ""


def storage_table(run: Run) -> str:
    """PUT, start and member reads."""
    lines = [["what", "median (min-max)", "unit", "client CPU ms each", "server CPU ms each"]]
    single = run.single
    if "up_s" in single:
        lines.append(["`up` until ready, 1 gateway + 3 targets", _range(single["up_s"], ".2f"),
                      "s", "-", "-"])  # fmt: skip
    titles = {
        "fsync": "copy of 64 MiB to a file, with fsync",
        "put": "PUT of 64 MiB, one copy, one at a time",
        "put-parallel": "PUT of 64 MiB, one copy, 4 at a time (`shardstream put`)",
    }
    for name, rates in single.get("mb_s", {}).items():
        lines.append([titles[name], _range(rates, ",.0f"), "MB/s", "-", "-"])
    titles = {
        "python": "member reads in random order, `Client`, one at a time",
        "http-1": "the same, plain HTTP with redirects, 1 connection",
        "http-4": "the same, 4 connections",
    }
    for name, title in titles.items():
        if passes := single.get(name):
            each = [median(p[key] / p["samples"] for p in passes) * 1e3
                    for key in ("cpu_s", "server_cpu_s")]  # fmt: skip
            lines.append([title, _range([p["samples"] / p["wall_s"] for p in passes], ",.0f"),
                          "samples/s", *(f"{ms:.2f}" for ms in each)])  # fmt: skip
    return markdown(lines) if len(lines) > 1 else ""


def _range(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}}-{max(values):{form}})"

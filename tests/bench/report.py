"""From the raw lines of a run to its table and its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

Row = dict[str, Any]  # one pass, as bench.py writes it

OURS, PEER, TCP, MEMCPY = "shardstream", "webdataset", "tcp", "memcpy"
TITLES = {
    MEMCPY: "memory copy",
    TCP: "plain loopback TCP",
    OURS: "shardstream, global shuffle",
    PEER: "webdataset over HTTP, shuffle(1000)",
}


def mb_s(row: Row, epoch: int = 0) -> float:
    e = row["epochs"][epoch]
    return float(e["bytes"] / 1e6 / e["wall_s"])


def cpu_gb(row: Row, epoch: int = 0) -> float:
    e = row["epochs"][epoch]
    return float(e["cpu_s"] / (e["bytes"] / 1e9))


def samples_s(row: Row) -> float:
    e = row["epochs"][0]
    return float(e["samples"] / e["wall_s"])


def server_gb(row: Row) -> float:
    return float(row["server_cpu_s"] / (sum(e["bytes"] for e in row["epochs"]) / 1e9))


class Run:
    """The measured passes of a run, by case and round."""

    def __init__(self, rows: list[Row]) -> None:
        self._measured: dict[str, dict[int, Row]] = {}
        self._warm_up: dict[str, Row] = {}
        for row in rows:
            if row["round"] == 0:
                self._warm_up[row["case"]] = row
            else:
                self._measured.setdefault(row["case"], {})[row["round"]] = row

    def cases(self) -> list[str]:
        return list(self._measured)

    def of(self, case: str, value: Callable[[Row], float]) -> list[float]:
        return [value(row) for row in self._measured.get(case, {}).values()]

    def ratio(self, a: str, b: str, value: Callable[[Row], float]) -> float | None:
        """The median over rounds of a's value to b's of the same round."""
        ours, theirs = self._measured.get(a, {}), self._measured.get(b, {})
        both = [value(ours[r]) / value(theirs[r]) for r in ours if r in theirs and value(theirs[r])]
        return median(both) if both else None

    def pss(self, case: str) -> float | None:
        return self._warm_up.get(case, {}).get("pss_peak_mb")


def table(run: Run) -> str:
    """One line a case; medians over the rounds, with the range of the rate."""
    head = [
        "case", "MB/s (min-max)", "2nd epoch MB/s", "samples/s", "client CPU s/GB",
        "server CPU s/GB", "peak RSS MB", "peak PSS MB", "first batch ms", "x TCP", "x webdataset",
    ]  # fmt: skip
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for case in run.cases():
        rates = run.of(case, mb_s)
        streams = case in (OURS, PEER)
        lines.append(
            [
                TITLES.get(case, case),
                f"{median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})",
                _show(run.of(case, lambda r: mb_s(r, 1)) if streams else [], ",.0f"),
                _show(run.of(case, samples_s) if streams else [], ",.0f"),
                _show(run.of(case, cpu_gb), ".2f"),
                _show(run.of(case, server_gb) if case != MEMCPY else [], ".2f"),
                _show(run.of(case, lambda r: r["rss_peak_mb"]), ".0f"),
                _show([p] if streams and (p := run.pss(case)) else [], ".0f"),
                _show(
                    run.of(case, lambda r: r["epochs"][0]["first_batch_s"] * 1e3)
                    if case != MEMCPY
                    else [],
                    ".0f",
                ),
                _show([x] if (x := run.ratio(case, TCP, mb_s)) else [], ".2f"),
                _show([x] if (x := run.ratio(case, PEER, mb_s)) else [], ".2f"),
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _show(values: list[float], form: str) -> str:
    return format(median(values), form) if values else "-"


@dataclass(frozen=True)
class Goal:
    """A bar, and where the run stands to it; required goals make the verdict."""

    text: str
    value: float | None
    met: bool
    required: bool

    def __str__(self) -> str:
        if self.value is None:
            return f"not measured: {self.text}"
        mark = "met" if self.met else "MISSED" if self.required else "not yet"
        return f"{mark}: {self.text} (here {self.value:.2f})"


def goals(run: Run) -> list[Goal]:
    def first(values: list[float]) -> float | None:
        return median(values) if values else None

    rate, cpu = run.ratio(OURS, PEER, mb_s), run.ratio(OURS, PEER, cpu_gb)
    again = first(run.of(OURS, lambda r: r["epochs"][1]["first_batch_s"] * 1e3))
    tcp, second = run.ratio(OURS, TCP, mb_s), _second_epoch_to_tcp(run)
    own_cpu = first(run.of(OURS, cpu_gb))
    return [
        _least("at least 2 x the MB/s of webdataset", rate, 2, required=True),
        _most("at most 1/2 of the client CPU of webdataset", cpu, 0.5, required=True),
        _least("at least 3 x the MB/s of webdataset", rate, 3),
        _most("at most 1/4 of the client CPU of webdataset", cpu, 0.25),
        _least("at least 0.85 of plain loopback TCP, opening included", tcp, 0.85),
        _least("at least 0.85 of plain loopback TCP, second epoch", second, 0.85),
        _most("at most 0.25 CPU s/GB in the client", own_cpu, 0.25),
        _most("first batch of a second epoch within 100 ms", again, 100),
    ]


def _second_epoch_to_tcp(run: Run) -> float | None:
    ours, tcp = run.of(OURS, lambda r: mb_s(r, 1)), run.of(TCP, mb_s)
    return median(a / b for a, b in zip(ours, tcp, strict=False)) if ours and tcp else None


def _least(text: str, value: float | None, bar: float, required: bool = False) -> Goal:
    return Goal(text, value, value is not None and value >= bar, required)


def _most(text: str, value: float | None, bar: float, required: bool = False) -> Goal:
    return Goal(text, value, value is not None and value <= bar, required)


def verdict(all_goals: list[Goal]) -> str:
    required = [g for g in all_goals if g.required]
    if any(g.value is None for g in required):
        return "verdict: incomplete, not all cases ran"
    return "verdict: goals met" if all(g.met for g in required) else "verdict: GOALS MISSED"

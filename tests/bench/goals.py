"""The goals of the design, row by row, and where a run stands to each."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from cases import LITDATA, OVER_HTTP, SHARED, STREAM, TCP
from report import (
    Run,
    Value,
    cpu_gb,
    first_batch_ms,
    first_cpu_gb,
    first_rate,
    markdown,
    rate,
    samples_s,
)

LARGE, SMALL = "110kB", "1kB"

# AIStore's samples/s from shards of the same kind, without and with its shard index: medians that
# an earlier run on a machine of this size recorded. AIStore takes no part in the run at hand.
AISTORE_GET = (184, 1034)  # single members, one connection
AISTORE_BATCH = (147, 1398)  # its GetBatch of 256 members


@dataclass(frozen=True)
class Goal:
    """A bar, and where the run stands to it; value is None where it was not measured."""

    path: str
    goal: str
    value: float | None
    bar: float
    form: str = ".2f"
    at_most: bool = False
    remark: str = ""

    @property
    def met(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def cells(self) -> list[str]:
        if self.value is None:
            return [self.path, self.goal, "-", "not measured"]
        value = format(self.value, self.form) + (f" ({self.remark})" if self.remark else "")
        return [self.path, self.goal, value, "met" if self.met else "**not met**"]


def goals(run: Run) -> list[Goal]:
    return [*_streams(run), *_small_samples(run), *_peers(run), *_others(run)]


def table(all_goals: list[Goal]) -> str:
    return markdown([["path", "goal", "measured", "verdict"], *(g.cells() for g in all_goals)])


def _streams(run: Run) -> list[Goal]:
    path = "110 kB samples, global shuffle, 1 client, into numpy, TCP"
    return [
        Goal(path, ">= 0.85 of plain loopback TCP", run.ratio(LARGE, STREAM, TCP, rate), 0.85),
        Goal(path + ", first epoch with opening", ">= 0.85 of plain loopback TCP",
             _first_to(run, STREAM, TCP), 0.85),
        Goal(path, "client <= 0.25 CPU s/GB", run.mid(LARGE, STREAM, cpu_gb), 0.25, at_most=True),
        Goal("the same host, arena shared with the target", ">= 1.5 of plain loopback TCP",
             run.ratio(LARGE, SHARED, TCP, rate), 1.5),
    ]  # fmt: skip


def _first_to(run: Run, ours: str, limit: str) -> float | None:
    """Our first epoch to the limit's later ones: the limit has nothing to open."""
    both = [
        (first_rate(row), rate(run.rows(LARGE, limit)[round_]))
        for round_, row in run.rows(LARGE, ours).items()
        if round_ in run.rows(LARGE, limit)
    ]
    ratios = [a / b for a, b in both if a and b]
    return median(ratios) if ratios else None


def _small_samples(run: Run) -> list[Goal]:
    goal = ">= 1 M samples/s"
    return [
        Goal(f"1 kB samples, 1 client, {how}", goal, run.mid(SMALL, case, samples_s), 1e6, ",.0f")
        for case, how in ((STREAM, "TCP"), (SHARED, "shared arena"))
    ]


def _peers(run: Run) -> list[Goal]:
    def against(case: str, peer: str, value: Value) -> float | None:
        return run.ratio(LARGE, case, peer, value)

    http, lit = "against webdataset over HTTP, same shards", "against litdata reading local disk"
    return [
        Goal(http + ", TCP", ">= 3 x MB/s", against(STREAM, OVER_HTTP, rate), 3),
        Goal(http + ", TCP, first epoch", ">= 3 x MB/s", against(STREAM, OVER_HTTP, first_rate), 3),
        Goal(http + ", TCP", "<= 1/4 of its CPU", against(STREAM, OVER_HTTP, cpu_gb), 0.25,
             at_most=True),
        Goal(http + ", TCP, first epoch", "<= 1/4 of its CPU",
             against(STREAM, OVER_HTTP, first_cpu_gb), 0.25, at_most=True),
        Goal(lit + ", TCP", ">= 1 x MB/s from a server", against(STREAM, LITDATA, rate), 1),
        Goal(lit + ", shared arena", ">= 1 x MB/s from a server",
             against(SHARED, LITDATA, rate), 1),
    ]  # fmt: skip


def _others(run: Run) -> list[Goal]:
    quality = run.warm(LARGE, STREAM).get("quality")
    return [
        *_against_aistore("member reads in random order, by the stream, against AIStore's GetBatch",
                          run.mid(LARGE, STREAM, samples_s), AISTORE_BATCH),
        *_against_aistore("member reads in random order, GET, 1 connection, against AIStore's",
                          _members_s(run), AISTORE_GET),
        Goal("first batch after open, warm, 110 kB, TCP", "< 100 ms",
             run.mid(LARGE, STREAM, first_batch_ms), 100, ".0f", at_most=True),
        Goal("first batch after open, warm, 110 kB, shared arena", "< 100 ms",
             run.mid(LARGE, SHARED, first_batch_ms), 100, ".0f", at_most=True),
        *(
            Goal(f"PUT of 64 MiB shards, one copy, durable, {how} at a time",
                 ">= 0.80 of write + fsync on that disk", _put_ratio(run, way), 0.80)
            for way, how in (("put", "one"), ("put-parallel", "four"))
        ),
        Goal("`up` to ready", "< 3 s", median(run.single["up_s"]) if "up_s" in run.single else None,
             3, at_most=True),
        Goal("client memory, all shards to a quarter of them", "O(batches in flight): <= 1.1",
             _growth(run), 1.1, at_most=True),
        Goal("same-shard pairs in a batch, global shuffle", "<= 0.07 where 0.0625 is ideal",
             quality["pairs"] if quality else None, 0.07, ".4f", at_most=True),
    ]  # fmt: skip


def _against_aistore(path: str, ours: float | None, theirs: tuple[int, int]) -> list[Goal]:
    return [
        Goal(path, f">= {bar} x {how} its shard index", ours / peer if ours else None, bar, ".1f",
             remark=f"to {peer:,} samples/s, of another run")
        for peer, bar, how in zip(theirs, (20, 10), ("without", "with"), strict=True)
    ]  # fmt: skip


def _members_s(run: Run) -> float | None:
    passes = run.single.get("http-1")
    return median(p["samples"] / p["wall_s"] for p in passes) if passes else None


def _put_ratio(run: Run, way: str) -> float | None:
    rates = run.single.get("mb_s")
    if not rates:
        return None
    return float(median(a / b for a, b in zip(rates[way], rates["fsync"], strict=True)))


def _growth(run: Run) -> float | None:
    """Above what the process had after its imports."""
    whole, part = run.warm(LARGE, STREAM), run.part(LARGE, STREAM)
    if not whole or not part:
        return None
    above = [r["memory_mb"]["clients"] - r["memory_idle_mb"]["clients"] for r in (whole, part)]
    return float(above[0] / max(above[1], 1))

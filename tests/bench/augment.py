"""The benchmark of augmentation: JPEG decode, random resized crop and flip, beside webdataset.

One interleaved run of three ways to uint8[N, 224, 224, 3] over the same shards: a stream with the
transforms as an ETL of level batch, webdataset with two DataLoader workers, and the same function
alone in two processes, which is the limit of the machine. Rounds and warm-up are as of bench.py.
Files go to --out: raw-etl.jsonl and report-etl.md; `augment.py --publish` puts the last report into
the documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import procfs
from augmented import BUCKET, ETL, READERS, WORKERS, chain
from bench import Record, machine
from clients import Clients, together
from localcluster import Cluster
from publish import DOCUMENT, between
from report import markdown
from shards import PHOTOS, Manifest, generate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RAW, REPORT = "raw-etl.jsonl", "report-etl.md"
BEGIN, END = "<!-- bench-etl: begin (make bench-etl-publish) -->", "<!-- bench-etl: end -->"
TITLES = {
    "shardstream": "shardstream, an ETL of level batch, one worker on each of 2 targets",
    "webdataset": "webdataset, local files, 2 DataLoader workers",
    "alone": "the same function alone, 2 processes, nothing travels",
}
LEAST_OF_ALONE, MOST_CPU = 0.9, 0.1

Row = dict[str, Any]


def run(case: str, folder: Path, cluster: Cluster, epochs: int) -> Row:
    """One pass: a trainer in a new process."""
    command = [sys.executable, "-W", "ignore", str(HERE / "augmented.py"), case, str(folder)]
    with Clients([*command, "--epochs", str(epochs)], 1, cluster.environment()) as clients:
        before = served(cluster)
        figures = clients.run()
        cpu = served(cluster) - before
    return {
        "case": case, "version": figures[0]["version"], "load": os.getloadavg()[0],
        "server_cpu_s": cpu, "samples": sum(e["samples"] for e in figures[0]["epochs"]),
        **together(figures),
    }  # fmt: skip


def served(cluster: Cluster) -> float:
    """CPU seconds so far of all nodes and of the workers below them."""
    roots = [pid for pids in cluster.pids().values() for pid in pids]
    return procfs.cpu_seconds({pid for root in roots for pid in procfs.tree(root)})


def measure(args: argparse.Namespace, record: Record) -> None:
    given = [word for word in sys.argv[1:] if word != "--helpers" and word != str(args.helpers)]
    command = " ".join(["tests/bench/run.sh augment.py", *given]) if given else "make bench-etl"
    record.note("about", {**machine(), "command": command, "rounds": args.rounds,
                          "quick": args.quick})  # fmt: skip
    spec = replace(PHOTOS, shards=2, shard_bytes=4 << 20, batch=16) if args.quick else PHOTOS
    folder = args.out / ("data-quick" if args.quick else "data") / spec.name
    manifest = generate(folder / "tar", spec)
    record.note("data", {"samples": manifest.samples, "batch": spec.batch,
                         "payload_bytes": manifest.payload_bytes,
                         "shards": len(manifest.shards)})  # fmt: skip
    with Cluster(args.binary, args.out / "cluster-etl", targets=2) as cluster:
        prepare(cluster, folder, manifest)
        for round_ in range(args.rounds + 1):
            for case in READERS:
                row = {
                    **run(case, folder, cluster, 2 if round_ == 0 else args.epochs),
                    "round": round_,
                }
                record.note("row", row)
                span = row["steady"]
                rate = span["samples"] / span["wall_s"]
                print(f"{round_ or 'warm-up'} {case:12} {rate:8,.0f} samples/s", flush=True)


def prepare(cluster: Cluster, folder: Path, manifest: Manifest) -> None:
    import shardstream as ss

    cluster.put(BUCKET, [folder / "tar" / name for name in manifest.files])
    with ss.Client(cluster.endpoint) as client:
        client.etl.create(ETL, function=chain(), level="batch", workers=WORKERS // 2)


class Run:
    """What a run measured."""

    def __init__(self, raw: Path) -> None:
        self.about: Row = {}
        self.data: Row = {}
        self.took_s = 0.0
        self.rows: dict[str, dict[int, Row]] = {}
        for line in map(json.loads, raw.read_text().splitlines()):
            ((kind, value),) = line.items()
            if kind == "row":
                if value["round"]:
                    self.rows.setdefault(value["case"], {})[value["round"]] = value
            else:
                setattr(self, kind, value)

    def values(self, case: str, of: Any) -> list[float]:
        return [float(of(row)) for row in self.rows[case].values()]

    def ratio(self, case: str, to: str, of: Any) -> float:
        """The median of the ratios within the rounds."""
        pairs = [(of(self.rows[case][r]), of(self.rows[to][r])) for r in self.rows[case]]
        return float(median(a / b for a, b in pairs))


def samples_s(row: Row) -> float:
    return float(row["steady"]["samples"] / row["steady"]["wall_s"])


def trainer_ms(row: Row) -> float:
    """CPU of the trainer's process and its workers, for each sample."""
    return float(row["steady"]["cpu_s"] / row["steady"]["samples"] * 1e3)


def server_ms(row: Row) -> float:
    """CPU of all nodes and their workers, for each sample of the whole pass."""
    return float(row["server_cpu_s"] / row["samples"] * 1e3)


def report(run: Run) -> str:
    about, data = run.about, run.data
    loads = [row["load"] for rows in run.rows.values() for row in rows.values()]
    head = (
        f"`{about['command']}` on {about['date']} at commit {about['commit']}: {about['cpu']}, "
        f"{about['cores']} cores, {about['memory_gib']} GiB, Linux {about['kernel']}, Python "
        f"{about['python']}; rounds: {about['rounds']}, {run.took_s / 60:.0f} minutes, load "
        f"{min(loads):.1f} to {max(loads):.1f}. {data['samples']:,} JPEGs of "
        f"{data['payload_bytes'] / data['samples'] / 1e3:.0f} kB in {data['shards']} shards, "
        f"batches of {data['batch']}. All clients and servers are on this machine."
    )
    lines = [["way", "samples/s (min-max)", "trainer's CPU ms/sample", "nodes' CPU ms/sample",
              "first batch s", "versions"]]  # fmt: skip
    for case, rows in run.rows.items():
        rates = run.values(case, samples_s)
        lines.append([
            TITLES[case], f"{median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})",
            f"{median(run.values(case, trainer_ms)):.3f}",
            f"{median(run.values(case, server_ms)):.3f}" if case == "shardstream" else "-",
            f"{median(run.values(case, lambda row: row['first_batch_s'])):.2f}",
            next(iter(rows.values()))["version"],
        ])  # fmt: skip
    cpu = run.ratio("shardstream", "webdataset", trainer_ms)
    rate = run.ratio("shardstream", "webdataset", samples_s)
    alone = run.ratio("shardstream", "alone", samples_s)
    verdicts = [
        ["goal", "measured", "verdict"],
        [f"trainer's CPU <= {MOST_CPU} of webdataset's", f"{cpu:.3f}", verdict(cpu <= MOST_CPU)],
        [f"samples/s >= {LEAST_OF_ALONE} of the function alone in as many processes",
         f"{alone:.2f}", verdict(alone >= LEAST_OF_ALONE)],
        ["samples/s to webdataset's", f"{rate:.2f}", "-"],
    ]  # fmt: skip
    return "\n\n".join([head, markdown(verdicts), markdown(lines)])


def verdict(met: bool) -> str:
    return "met" if met else "**not met**"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small data, 1 round")
    parser.add_argument("--rounds", type=int, help="measured rounds (default 3)")
    parser.add_argument("--epochs", type=int, default=4, help="of a pass; the first is the warm-up")
    parser.add_argument("--publish", action="store_true", help="put the last report into the docs")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--binary", default=shutil.which("shardstream"))
    parser.add_argument("--helpers", type=Path, help="as of bench.py; of no use here")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    raw = args.out / RAW
    if args.publish:
        if not raw.exists() or Run(raw).about["quick"]:
            print(f"no {raw} of a whole run: run `make bench-etl` first", file=sys.stderr)
            return 1
        DOCUMENT.write_text(between(DOCUMENT.read_text(), BEGIN, END, report(Run(raw))))
        return 0
    if not args.binary:
        parser.error("no shardstream binary on PATH: install the wheel, or pass --binary")
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with raw.open("w") as file:
        record = Record(file)
        measure(args, record)
        record.note("took_s", time.monotonic() - started)
    text = report(Run(raw))
    (args.out / REPORT).write_text(text + "\n")
    print(f"\n{text}\n\nraw figures: {raw}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

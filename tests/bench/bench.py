"""The benchmark: our stream between the machine's limits and its peers, in one interleaved run.

All cases take turns (A, B, C, ..., A, B, C, ...), so that foreign load and a changing clock hit all
alike; every pass is fresh processes. Round 0 warms up, with one client: it alone checks every byte
that arrives, judges the order, and samples memory. Rates are payload bytes; MB is 10^6, GB 10^9.
Ratios are taken within a round, and the median over the rounds is shown. Files go to --out:
raw.jsonl, report.md, report.svg.

The environment chooses as the options do: BENCH_ROUNDS, BENCH_CASES, BENCH_DATA, BENCH_CLIENTS.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import storage
from cases import CASES, CLIENTS, OURS, STREAM, Case, missing
from clients import ClientError
from formats import converted
from localcluster import Cluster
from publish import write_report
from readers import BUCKET_OF
from shards import SPECS, Manifest, Spec, generate
from suite import Row, Suite, Turn, WrongDataError, WrongTransportError, schedule, serving

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Record:
    """The raw figures, a line of JSON each, on disk as they come: whatever ends the run."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def note(self, kind: str, value: Any) -> None:
        self._file.write(json.dumps({kind: value}) + "\n")
        self._file.flush()


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().partition("MemTotal:")[2].split()[0]
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory) / 2**20),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "host_congestion_control": congestion,
        "commit": commit or "unknown",
    }


def prepare(folder: Path, spec: Spec, kinds: set[str], skipped: dict[str, str]) -> Manifest:
    """The data set in all formats; a format that can't be made goes into skipped."""
    manifest = generate(folder / "tar", spec)
    for kind in sorted(kinds - set(skipped)):
        if converted(folder, kind):
            continue
        print(f"{spec.name}: converting to {kind}, once", flush=True)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(HERE / "formats.py"), kind, str(folder)],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode != 0:
            skipped[kind] = f"converting failed: {(done.stderr.strip() or '?').splitlines()[-1]}"
    return manifest


def runnable(names: list[str], record: Record) -> list[Case]:
    """The cases that this machine can run; the others are said and noted."""
    cases = []
    for name in names:
        if reason := missing(CASES[name]):
            skip(name, reason, record)
        else:
            cases.append(CASES[name])
    return cases


def skip(name: str, reason: str, record: Record) -> None:
    print(f"SKIPPED {name}: {reason}", flush=True)
    record.note("skipped", {"case": name, "reason": reason})


def run_turns(suite: Suite, turns: list[Turn], record: Record) -> None:
    """All passes. A peer that fails is left out from there on; wrong data of ours end the run."""
    broken: set[tuple[str, int]] = set()
    for i, turn in enumerate(turns, start=1):
        if (turn.case.name, turn.clients) in broken:
            continue
        try:
            row = suite.run(turn)
        except (ClientError, WrongDataError, WrongTransportError) as e:
            if turn.case.kind == OURS and not isinstance(e, WrongTransportError):
                raise
            broken.add((turn.case.name, turn.clients))
            skip(f"{turn.case.name} with {turn.clients} clients", str(e), record)
            continue
        record.note("row", row)
        print(f"[{i}/{len(turns)}] {line(row)}", flush=True)
        if turn.warm_up and turn.case.name == STREAM:
            # What memory would grow with, if it did: a quarter of the shards and all of them.
            part = suite.run(turn, shards=suite.quarter(turn.data))
            record.note("part", part)


def line(row: Row) -> str:
    span = row["steady"] or row["first"]
    when = f"round {row['round']}" if row["round"] else "warm-up"
    name = f"{row['data']:>5} x{row['clients']} {row['case']:16}"
    return f"{when:8} {name} {span['bytes'] / 1e6 / span['wall_s']:8,.0f} MB/s"


def measure(args: argparse.Namespace, record: Record) -> bool:
    """The run; false where its figures are not to be trusted."""
    chosen = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("BENCH_")]
    command = " ".join([*chosen, "tests/bench/run.sh --quick" if args.quick else "make bench"])
    about = {**machine(), "command": command, "rounds": args.rounds, "quick": args.quick}
    record.note("about", about)
    cases = runnable(args.cases, record)
    skipped: dict[str, str] = {}
    manifests = {
        name: prepare(args.data_dir / name, spec, {c.format for c in cases} - {""}, skipped)
        for name, spec in args.specs.items()
    }
    for case in [case for case in cases if case.format in skipped]:
        skip(case.name, skipped[case.format], record)
        cases.remove(case)
    for manifest in manifests.values():
        record.note("data", {
            "name": manifest.spec.name, "samples": manifest.samples, "batch": manifest.spec.batch,
            "payload_bytes": manifest.payload_bytes, "shards": len(manifest.shards),
        })  # fmt: skip
    record.note("single", storage.start_times(args.binary, args.out / "cluster", 3))
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(args.binary, args.out / "cluster"))
        first = next(iter(manifests))
        for name, manifest in manifests.items():
            folder = args.data_dir / name / "tar"
            cluster.put(BUCKET_OF.format(name.lower()), [folder / f for f in manifest.files])
        tars = [args.data_dir / first / "tar" / f for f in manifests[first].files]
        tcp = stack.enter_context(serving(args.helpers / "loopback", tars))
        least = (16 << 20) if args.quick else 1 << 30
        suite = Suite(
            manifests, args.data_dir, cluster, args.helpers / "loopback", tcp, least_bytes=least
        )
        turns = list(schedule(cases, manifests, args.clients, args.rounds))
        run_turns(suite, turns, record)
        if args.storage:
            record.note("single", storage.durable_puts(cluster, tars[:4], args.out, args.rounds))
            count = 100 if args.quick else 2000
            folder, helper = args.data_dir / first / "tar", args.helpers / "members"
            record.note("single", storage.member_reads(
                cluster, manifests[first], folder, helper, count, args.rounds
            ))  # fmt: skip
        return suite.nodes_unchanged()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    env = os.environ.get
    parser.add_argument(
        "--quick", action="store_true", help="small data, 1 round: tries the benchmark itself"
    )
    parser.add_argument(
        "--rounds", type=int, default=env("BENCH_ROUNDS"), help="measured rounds (default 3)"
    )
    parser.add_argument(
        "--cases", default=env("BENCH_CASES", ",".join(CASES)), help=f"of {','.join(CASES)}"
    )
    parser.add_argument(
        "--data", default=env("BENCH_DATA", ",".join(SPECS)), help=f"of {','.join(SPECS)}"
    )
    parser.add_argument(
        "--clients", default=env("BENCH_CLIENTS", ",".join(map(str, CLIENTS))),
        help="at once, e.g. 1,2,4",
    )  # fmt: skip
    parser.add_argument("--no-storage", dest="storage", action="store_false",
                        help="streams only, without PUT and member reads")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "bench", help="folder for data and results"
    )
    parser.add_argument(
        "--binary", help="the shardstream binary (default: of this Python's environment, else PATH)"
    )
    parser.add_argument(
        "--helpers", type=Path, required=True, help="folder of the built loopback and members"
    )
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.data_dir = args.out / ("data-quick" if args.quick else "data")
    args.cases = names_of(parser, "case", args.cases, list(CASES))
    names = names_of(parser, "data set", args.data, list(SPECS))
    args.specs = {name: SPECS[name] for name in names}
    if args.quick:
        args.specs = {n: replace(s, shards=4, shard_bytes=4 << 20) for n, s in args.specs.items()}
    counts = list(map(str, CLIENTS))
    args.clients = list(map(int, names_of(parser, "number of clients", args.clients, counts)))
    args.binary = args.binary or shutil.which("shardstream")
    if not args.binary:
        parser.error("no shardstream binary on PATH: install the wheel, or pass --binary")
    return args


def names_of(parser: argparse.ArgumentParser, what: str, text: str, known: list[str]) -> list[str]:
    """The chosen names, in their own order."""
    chosen = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(chosen - set(known)):
        parser.error(f"unknown {what} {', '.join(unknown)}, there are {', '.join(known)}")
    if not chosen:
        parser.error(f"no {what} chosen, there are {', '.join(known)}")
    return [name for name in known if name in chosen]


def main() -> int:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    lock = (args.out / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another run is at work in {args.out}: wait for it, or pass --out", file=sys.stderr)
        return 1

    def terminate(*_: object) -> None:
        # No exception: one that rises inside of a wait for a child may leave that wait locked.
        Cluster(args.binary, args.out / "cluster").__exit__()
        os._exit(1)

    signal.signal(signal.SIGTERM, terminate)
    started = time.monotonic()
    raw = args.out / "raw.jsonl"
    with raw.open("w") as file:
        record = Record(file)
        sound = measure(args, record)
        record.note("took_s", time.monotonic() - started)
    if not sound:
        print("a node was restarted during the run: its figures are worth nothing", file=sys.stderr)
        return 1
    print(f"\n{write_report(raw, args.out)}\n\nraw figures: {raw}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

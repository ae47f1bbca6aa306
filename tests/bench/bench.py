"""The benchmark: our stream beside webdataset, between the limits of memory and of loopback TCP.

All cases take turns (A, B, C, ..., A, B, C, ...), so that foreign load and a changing clock hit all
alike; every pass is a fresh process. Round 0 warms up: it alone checks every byte that arrives
and samples the memory of the process tree. Rates are payload bytes; MB is 10^6. Ratios are taken
within a round, and the median over the rounds is shown. Files go to --out: raw.jsonl, table.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import procfs
import report
from localcluster import BUCKET, Cluster
from shards import Manifest, Spec, generate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PASS_TIMEOUT_S = 300


class Bench:
    """One run: knows how to start each case's pass, and whose CPU its server side is."""

    def __init__(self, manifest: Manifest, cluster: Cluster, loopback: Path, tcp: Loopback) -> None:
        self.manifest = manifest
        self._cluster = cluster
        self._nodes = cluster.pids()
        base = f"{cluster.endpoint}/v1/objects/{BUCKET}"
        total = str(manifest.payload_bytes)
        passes = [sys.executable, str(HERE / "passes.py")]
        self._commands = {
            report.MEMCPY: [*passes, "memcpy", total],
            report.TCP: [str(loopback), "fetch", tcp.addr, total],
            report.OURS: [*passes, "shardstream", f"ss://{BUCKET}/train-*.tar"],
            report.PEER: [*passes, "webdataset", *(f"{base}/{f}" for f in manifest.files)],
        }
        self._servers = {report.MEMCPY: [], report.TCP: [tcp.pid]}

    def run(self, case: str, round_: int) -> report.Row:
        warm_up, streams = round_ == 0, case in (report.OURS, report.PEER)
        command = [*self._commands[case], *(["--check"] if warm_up and streams else [])]
        servers = self._servers.get(case, self._nodes)
        before = procfs.cpu_seconds(servers)
        row = self._pass(command, sample_memory=warm_up and streams)
        row["server_cpu_s"] = procfs.cpu_seconds(servers) - before
        row.setdefault("epochs", [row.copy()])  # loopback prints the one epoch that it is
        if streams:
            self._check(case, row, sums=warm_up)
        return {"case": case, "round": round_, "load": os.getloadavg()[0], **row}

    def _pass(self, command: list[str], sample_memory: bool) -> report.Row:
        process = subprocess.Popen(
            command, env=self._cluster.environment(), stdout=subprocess.PIPE, text=True
        )
        with ExitStack() as stack:
            stack.callback(process.kill)  # does nothing once it was waited for
            memory = None
            if sample_memory:
                memory = stack.enter_context(procfs.PeakMemory(process.pid))
            out, _ = process.communicate(timeout=PASS_TIMEOUT_S)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command[:4])} ...: exit {process.returncode}, see above")
        row: report.Row = json.loads(out.splitlines()[-1])
        if memory:
            row["pss_peak_mb"] = memory.peak_mb
        return row

    def _check(self, case: str, row: report.Row, sums: bool) -> None:
        """A fast pass over the wrong bytes is worth nothing."""
        want = [self.manifest.samples, self.manifest.payload_bytes]
        for epoch in row["epochs"]:
            if [epoch["samples"], epoch["bytes"]] != want:
                raise RuntimeError(
                    f"{case}: {epoch['samples']} samples of {epoch['bytes']} bytes arrived, not "
                    f"{want[0]} of {want[1]}"
                )
            if sums and epoch["crc_sum"] != self.manifest.crc_sum:
                raise RuntimeError(
                    f"{case}: the right number of bytes arrived, but not the right bytes"
                )

    def nodes_unchanged(self) -> bool:
        return self._cluster.pids() == self._nodes


class Loopback:
    """The running server side of plain TCP."""

    def __init__(self, pid: int, addr: str) -> None:
        self.pid = pid
        self.addr = addr


@contextmanager
def serving(loopback: Path) -> Iterator[Loopback]:
    server = subprocess.Popen(
        [loopback, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        yield Loopback(server.pid, server.stdout.readline().strip())
    finally:
        server.stdin.close()  # ends it
        server.wait(timeout=10)
        server.stdout.close()


def machine() -> dict[str, Any]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "host_congestion_control": congestion,
        "commit": commit or "unknown",
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="small data, 2 rounds: tries the benchmark itself"
    )
    parser.add_argument("--rounds", type=int, help="measured rounds (default 5)")
    parser.add_argument("--shards", type=int, help="number of shards (default 16)")
    parser.add_argument(
        "--cases", default="memcpy,tcp,shardstream,webdataset", help="comma separated"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "bench", help="folder for data and results"
    )
    parser.add_argument(
        "--binary", help="the shardstream binary (default: of this Python's environment, else PATH)"
    )
    parser.add_argument("--loopback", type=Path, required=True, help="the built TCP helper")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.shards = args.shards or (4 if args.quick else 16)
    beside = Path(sys.executable).parent / "shardstream"
    args.binary = args.binary or (str(beside) if beside.exists() else shutil.which("shardstream"))
    if not args.binary:
        parser.error(
            "no shardstream binary: install the wheel into this environment or pass --binary"
        )
    unknown = set(args.cases.split(",")) - set(report.TITLES)
    if unknown:
        parser.error(
            f"unknown case {', '.join(sorted(unknown))}, there are {', '.join(report.TITLES)}"
        )
    return args


def main() -> int:
    args = arguments()
    spec = Spec(shards=args.shards, shard_bytes=(8 if args.quick else 64) << 20)
    folder = args.out / ("shards-quick" if args.quick else "shards")
    print(f"shards: {spec.shards} of {spec.shard_bytes >> 20} MiB in {folder}", flush=True)
    manifest = generate(folder, spec)
    about = {**machine(), "samples": manifest.samples, "payload_bytes": manifest.payload_bytes}
    place = args.out / "cluster"
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    rows: list[report.Row] = []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        raw = stack.enter_context((args.out / "raw.jsonl").open("w"))
        raw.write(json.dumps({"machine": about}) + "\n")
        cluster = stack.enter_context(Cluster(args.binary, place))
        cluster.put([folder / name for name in manifest.files])
        bench = Bench(manifest, cluster, args.loopback, stack.enter_context(serving(args.loopback)))
        for round_ in range(args.rounds + 1):
            for case in args.cases.split(","):
                row = bench.run(case, round_)
                rows.append(row)
                raw.write(json.dumps(row) + "\n")
                raw.flush()
                label = f"round {round_}" if round_ else "warm-up"
                print(f"{label:8} {case:12} {report.mb_s(row):8,.0f} MB/s", flush=True)
        unchanged = bench.nodes_unchanged()
    if not unchanged:
        print(
            "a node was restarted during the run: its figures are not to be trusted",
            file=sys.stderr,
        )
        return 1
    run = report.Run(rows)
    goals = report.goals(run)
    loads = [row["load"] for row in rows]
    text = "\n".join(
        [
            f"{manifest.samples:,} samples, {manifest.payload_bytes / 1e6:,.0f} MB of payload in "
            f"{spec.shards} shards; {args.rounds} rounds; {about['cpu']}, {about['cores']} cores, "
            f"load {min(loads):.1f}-{max(loads):.1f}, commit {about['commit']}",
            *(["", "Small data: this shows that the benchmark works, and no more."] * args.quick),
            "",
            report.table(run),
            "",
            *(f"- {goal}" for goal in goals),
            "",
            report.verdict(goals),
        ]
    )
    (args.out / "table.md").write_text(text + "\n")
    print(f"\n{text}\n\nraw figures: {args.out / 'raw.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The benchmark's own parts, on small data: no test here asserts a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import passes
import procfs
import report
from shards import Spec, generate

SMALL = Spec(shards=2, shard_bytes=2 << 20)


def test_shards_are_what_the_manifest_says(tmp_path: Path) -> None:
    manifest = generate(tmp_path, SMALL)
    samples = payload = crc_sum = 0
    for name in manifest.files:
        assert (tmp_path / name).stat().st_size <= SMALL.shard_bytes
        with tarfile.open(tmp_path / name) as tar:
            members = tar.getmembers()
            for jpg, cls in zip(members[::2], members[1::2], strict=True):
                assert jpg.name == f"{samples:08d}.jpg"
                assert cls.name == f"{samples:08d}.cls"
                samples += 1
                for member in jpg, cls:
                    opened = tar.extractfile(member)
                    assert opened is not None
                    content = opened.read()
                    payload += len(content)
                    crc_sum += zlib.crc32(content)
    assert (manifest.samples, manifest.payload_bytes) == (samples, payload)
    assert manifest.crc_sum == crc_sum
    assert samples > 10


def test_shards_are_generated_once_and_alike(tmp_path: Path) -> None:
    first = generate(tmp_path / "a", SMALL)
    written = (tmp_path / "a" / first.files[0]).stat().st_mtime_ns
    assert generate(tmp_path / "a", SMALL) == first
    assert (tmp_path / "a" / first.files[0]).stat().st_mtime_ns == written
    assert generate(tmp_path / "b", SMALL).crc_sum == first.crc_sum
    assert generate(tmp_path / "c", Spec(2, 2 << 20, seed=8)).crc_sum != first.crc_sum


def test_an_epoch_counts_what_arrives() -> None:
    epoch = passes.measure(
        lambda: iter([(2, [b"ab", b"c"]), (1, [memoryview(b"def")])]), check=True
    )
    assert (epoch.samples, epoch.bytes) == (3, 6)
    assert epoch.crc_sum == sum(map(zlib.crc32, [b"ab", b"c", b"def"]))
    assert 0 < epoch.first_batch_s <= epoch.wall_s


def test_cpu_and_memory_of_a_process_tree() -> None:
    shell = "read line; python=$1; $python -c 'sum(range(10**7))'; read line"
    with subprocess.Popen(
        ["sh", "-c", shell, "sh", sys.executable], stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        idle = procfs.cpu_seconds([process.pid])
        with procfs.PeakMemory(process.pid, every_s=0.001) as memory:
            process.stdin.write("go\n")
            process.stdin.flush()
            while procfs.cpu_seconds([process.pid]) <= idle:  # until the child was reaped
                assert process.poll() is None
        assert memory.peak_mb > 1
        assert procfs.tree(os.getpid()).count(process.pid) == 1
        process.stdin.close()


def row(case: str, round_: int, wall: float, cpu: float) -> dict[str, Any]:
    epoch = {"bytes": 10**9, "samples": 10_000, "wall_s": wall, "cpu_s": cpu, "first_batch_s": 0.1}
    extra = {"pss_peak_mb": 70.0} if round_ == 0 else {}
    return {
        "case": case, "round": round_, "epochs": [epoch, epoch],
        "server_cpu_s": 1.0, "rss_peak_mb": 50.0, **extra,
    }  # fmt: skip


def test_ratios_are_medians_within_rounds_and_leave_the_warm_up_out() -> None:
    rows = [row("shardstream", 0, 100, 100), row("webdataset", 0, 1, 1)]
    for round_, slow in enumerate([1, 10, 2], start=1):  # foreign load that hits both alike
        rows.append(row("shardstream", round_, 1.0 * slow, 0.5))
        rows.append(row("webdataset", round_, 4.0 * slow, 4.0))
    run = report.Run(rows)
    assert run.ratio("shardstream", "webdataset", report.mb_s) == 4
    assert run.ratio("shardstream", "webdataset", report.cpu_gb) == 0.125
    assert run.ratio("shardstream", "tcp", report.mb_s) is None
    goals = report.goals(run)
    assert [g.met for g in goals if g.required] == [True, True]
    assert report.verdict(goals) == "verdict: goals met"
    text = report.table(run)
    assert "| shardstream, global shuffle | 500 (100-1,000) |" in text
    assert "| 0.50 | 0.50 | 50 | 70 | 100 | - | 4.00 |" in text


def test_the_verdict_tells_missed_from_not_measured() -> None:
    ours = [row("shardstream", 1, 1.0, 1.0)]
    slow = report.goals(report.Run([*ours, row("webdataset", 1, 1.5, 4.0)]))
    assert report.verdict(slow) == "verdict: GOALS MISSED"
    assert str(slow[0]) == "MISSED: at least 2 x the MB/s of webdataset (here 1.50)"
    alone = report.goals(report.Run(ours))
    assert report.verdict(alone) == "verdict: incomplete, not all cases ran"
    assert str(alone[0]) == "not measured: at least 2 x the MB/s of webdataset"

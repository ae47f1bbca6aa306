"""The benchmark's own parts, and one small run of it: no test here asserts a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import augment
import clients
import goals
import passes
import plot
import procfs
import pytest
import report
import suite
from cases import CASES
from PIL import Image
from publish import BEGIN, END, publish, write_report
from quality import judge
from shards import PHOTOS, SPECS, Manifest, Shard, ShardOf, Spec, generate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SMALL = Spec(shards=2, shard_bytes=2 << 20)


@pytest.mark.parametrize("spec", [SMALL, replace(SPECS["1kB"], shards=2, shard_bytes=1 << 18)])
def test_shards_are_what_the_manifest_says(tmp_path: Path, spec: Spec) -> None:
    manifest = generate(tmp_path, spec)
    first = 0
    for shard in manifest.shards:
        assert (tmp_path / shard.name).stat().st_size <= spec.shard_bytes
        payload, crc_sum = 0, 0
        names = []
        with tarfile.open(tmp_path / shard.name) as tar:
            for member in tar:
                names.append(member.name)
                opened = tar.extractfile(member)
                assert opened is not None
                content = opened.read()
                payload += len(content)
                crc_sum += zlib.crc32(content)
        numbers = range(first, first + shard.samples)
        assert names == [f"{number:08d}.{field}" for number in numbers for field in spec.fields]
        assert (shard.payload_bytes, shard.crc_sum) == (payload, crc_sum)
        first += shard.samples
    assert manifest.samples == first > 10
    assert Manifest.load(tmp_path / "manifest.json") == manifest


def test_shards_are_generated_once_and_alike(tmp_path: Path) -> None:
    first = generate(tmp_path / "a", SMALL)
    written = (tmp_path / "a" / first.files[0]).stat().st_mtime_ns
    assert generate(tmp_path / "a", SMALL) == first
    assert (tmp_path / "a" / first.files[0]).stat().st_mtime_ns == written
    assert generate(tmp_path / "b", SMALL).crc_sum == first.crc_sum
    assert generate(tmp_path / "c", replace(SMALL, seed=8)).crc_sum != first.crc_sum


def test_order_is_judged() -> None:
    shard_of = ShardOf([4, 4])
    assert [shard_of(sample) for sample in range(8)] == [0] * 4 + [1] * 4
    straight = judge([[0, 1, 2, 3], [4, 5, 6, 7]], 8, shard_of)
    assert straight.pairs == straight.pairs_worst == 1
    assert straight.exactly_once
    assert straight.distance == pytest.approx(1 / (8 / 3))
    mixed = judge([[0, 4, 1, 5], [2, 6, 3, 7]], 8, shard_of)
    assert mixed.pairs == pytest.approx(1 / 3)
    assert mixed.pairs_ideal == pytest.approx(2 * (4 * 3) / (8 * 7))
    assert not judge([[0, 1, 2, 3], [4, 5, 6, 6]], 8, shard_of).exactly_once
    assert not judge([[0, 1, 2, 3], [4, 5, 6]], 8, shard_of).exactly_once


class Fixed:
    """A reader of two batches."""

    version = "1"

    def epoch(self) -> Iterator[Any]:
        return iter([[(0, b"ab"), (1, b"c")], [(2, b"def")]])

    def size(self, batch: Any) -> tuple[int, int]:
        return len(batch), sum(len(content) for _, content in batch)

    def keys(self, batch: Any) -> list[str]:
        return [f"{number:08d}" for number, _ in batch]

    def contents(self, batch: Any) -> Iterator[Any]:
        return (content for _, content in batch)

    def close(self) -> dict[str, Any]:
        return {}


def test_an_epoch_counts_what_arrives() -> None:
    epoch = passes.measure(Fixed())
    assert (epoch.samples, epoch.bytes) == (3, 6)
    assert epoch.start <= epoch.first <= epoch.last <= epoch.end
    manifest = Manifest(SMALL, [Shard("train-0000.tar", samples=3)])
    checked, quality = passes.check(Fixed(), manifest)
    assert checked.crc_sum == sum(map(zlib.crc32, [b"ab", b"c", b"def"]))
    assert quality["exactly_once"]


def test_cpu_and_memory_of_a_process_tree() -> None:
    shell = "read line; python=$1; $python -c 'sum(range(10**7))'; read line"
    with subprocess.Popen(
        ["sh", "-c", shell, "sh", sys.executable], stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        idle = procfs.cpu_seconds([process.pid])
        group = {"tree": lambda: procfs.tree(process.pid)}
        with procfs.PeakMemory(group, every_s=0.001) as memory:
            process.stdin.write("go\n")
            process.stdin.flush()
            while procfs.cpu_seconds([process.pid]) <= idle:  # until the child was reaped
                assert process.poll() is None
        assert memory.peak_mb["tree"] > 1
        assert procfs.tree(os.getpid()).count(process.pid) == 1
        process.stdin.close()


def client(code: str) -> list[str]:
    return [sys.executable, "-c", f"import sys, os, json\n{code}"]


def test_clients_begin_together_and_know_their_rank() -> None:
    code = "print('noise\\nready', flush=True); sys.stdin.readline()\n"
    code += "print(json.dumps(os.environ['RANK']))"
    with clients.Clients(client(code), 2, dict(os.environ)) as group:
        assert len(group.pids()) == 2
        assert group.run() == ["0", "1"]


@pytest.mark.parametrize(
    "code",
    ["sys.exit('a word')", "print('ready', flush=True); sys.stdin.readline(); sys.exit('a word')"],
)
def test_a_client_that_fails_is_an_error_with_its_last_words(code: str) -> None:
    with (
        pytest.raises(clients.ClientError, match="a word"),
        clients.Clients(client(code), 1, dict(os.environ)) as group,
    ):
        group.run()


def epoch(start: float, end: float, size: int) -> dict[str, Any]:
    moments = {"start": start, "first": start + 0.1, "last": end, "end": end}
    return {**moments, "cpu_s": 1.0, "samples": 10, "bytes": size, "crc_sum": 0}


def test_figures_of_clients_span_all_of_them() -> None:
    a = {"epochs": [epoch(0, 2, 100), epoch(2, 3, 100), epoch(3, 4, 100)], "rss_peak_mb": 5}
    b = {"epochs": [epoch(1, 5, 100), epoch(5, 6, 100), epoch(6, 8, 100)], "rss_peak_mb": 7}
    both = clients.together([a, b])
    assert both["first"] == {"wall_s": 5, "cpu_s": 2, "bytes": 200, "samples": 20}
    assert both["steady"] == {"wall_s": 6, "cpu_s": 4, "bytes": 400, "samples": 40}
    assert both["fairness"] == pytest.approx(0.5)
    assert both["gap_s"] == pytest.approx(0.1)
    assert both["rss_peak_mb"] == 7
    one = {"epochs": [epoch(0, 2, 100)], "rss_peak_mb": 5}
    assert clients.together([one])["steady"] is None


def test_cases_take_turns() -> None:
    cases = [CASES["memcpy"], CASES["tcp"], CASES["shardstream"]]
    turns = list(suite.schedule(cases, ["110kB", "1kB"], [1, 2], 2))
    names = [t.case.name for t in turns if t.clients == 1 and t.data == "1kB"]
    assert names == ["memcpy", "tcp", "shardstream"] * 3
    assert {t.clients for t in turns if t.warm_up} == {1}
    assert [(t.case.name, t.round) for t in turns if t.clients == 2 and t.data == "1kB"] == [
        ("tcp", 1), ("shardstream", 1)
    ]  # fmt: skip
    assert {t.round for t in suite.schedule(cases, ["1kB"], [1, 2], 1) if t.clients == 2} == {1}


def row(case: str, round_: int, wall: float, cpu: float, clients: int = 1) -> dict[str, Any]:
    span = {"wall_s": wall, "cpu_s": cpu, "bytes": 10**9, "samples": 10_000}
    value: dict[str, Any] = {
        "case": case, "data": "110kB", "clients": clients, "round": round_, "load": 1.0,
        "server_cpu_s": {"target": 1.0, "gateway": 0.5}, "first": {**span, "wall_s": 2 * wall},
        "steady": span, "bytes": 2 * 10**9, "first_batch_s": 0.05, "gap_s": 0.002,
        "fairness": 0.9, "rss_peak_mb": 50.0,
    }  # fmt: skip
    if round_ == 0:
        value["memory_mb"], value["memory_idle_mb"] = {"clients": 70.0}, {"clients": 20.0}
        value["quality"] = {"pairs": 0.0631, "pairs_worst": 0.07, "pairs_ideal": 0.0624,
                            "distance": 1.0, "exactly_once": True}  # fmt: skip
    return value


def lines() -> list[dict[str, Any]]:
    """A run of three rounds, under foreign load that hits all cases alike."""
    about = {"date": "2026-01-02", "cpu": "A <CPU>", "cores": 2, "memory_gib": 24, "kernel": "6",
             "python": "3.11", "commit": "abc", "rounds": 3, "quick": False,
             "command": "make bench"}  # fmt: skip
    data = {"name": "110kB", "samples": 9559, "batch": 256, "payload_bytes": 10**9, "shards": 16}
    speeds = {"tcp": 0.8, "shardstream": 0.5, "shardstream-tcp": 1.0, "webdataset-http": 4.0}
    rows = [row(case, 0, 100, 100) for case in speeds if case != "tcp"]
    for round_, slow in enumerate([1, 10, 2], start=1):
        for case, wall in speeds.items():
            rows.append(row(case, round_, wall * slow, wall))
            rows.append(row(case, round_, wall * slow / 2, wall, clients=2))
    part = row("shardstream-tcp", 0, 100, 100) | {"memory_mb": {"clients": 68.0}}
    single = {
        "up_s": [0.5, 0.7, 0.6],
        "mb_s": {"fsync": [100.0, 10.0], "put": [70.0, 7.0], "put-parallel": [90.0, 9.0]},
        "http-1": [{"samples": 2000, "wall_s": 0.4, "cpu_s": 0.2, "server_cpu_s": 0.2, "bytes": 1}],
    }
    return [
        {"about": about}, {"data": data}, {"single": single}, {"took_s": 600},
        {"skipped": {"case": "mosaicml", "reason": "streaming can't be imported"}},
        *({"row": r} for r in rows), {"part": part},
    ]  # fmt: skip


def test_ratios_are_medians_within_rounds_and_leave_the_warm_up_out() -> None:
    run = report.Run(lines())
    ours, peer = "shardstream-tcp", "webdataset-http"
    assert run.ratio("110kB", ours, peer, report.rate) == pytest.approx(4)
    assert run.ratio("110kB", ours, "tcp", report.rate) == pytest.approx(0.8)
    assert run.ratio("110kB", ours, "litdata", report.rate) is None
    assert run.mid("110kB", ours, report.rate) == pytest.approx(500)
    assert run.mid("110kB", ours, report.first_rate) == pytest.approx(250)
    assert run.mid("110kB", ours, report.rate, 2) == pytest.approx(1000)
    assert report.targets_gb(run.rows("110kB", ours)[1]) == pytest.approx(0.5)
    assert report.gateway_gb(run.rows("110kB", ours)[1]) == pytest.approx(0.25)


def test_tables_show_what_was_measured() -> None:
    run = report.Run(lines())
    text = report.stream_table(run, "110kB")
    assert "| shardstream, TCP | 500 (100-1,000) | 250 |" in text
    assert "| 70 (20) |" in text
    assert "0.90" in report.clients_table(run, "110kB")
    assert "| 0.063 | 0.070 | 0.062 | 1.00 | yes |" in report.order_table(run)
    assert "| 0.60 (0.50-0.70) |" in report.storage_table(run)


def test_goals_tell_met_from_missed_from_not_measured() -> None:
    verdicts = {}
    for goal in goals.goals(report.Run(lines())):
        path, bar, value, verdict = goal.cells()
        verdicts[path, bar] = (value.partition(" ")[0], verdict)
    stream = "110 kB samples, global shuffle, 1 client, into numpy, TCP"
    assert verdicts[stream, ">= 0.85 of plain loopback TCP"] == ("0.80", "**not met**")
    assert verdicts[
        "the same host, arena shared with the target", ">= 1.5 of plain loopback TCP"
    ] == ("1.60", "met")
    assert verdicts["`up` to ready", "< 3 s"] == ("0.60", "met")
    put, bar = "PUT of 64 MiB shards, one copy, durable, ", ">= 0.80 of write + fsync on that disk"
    assert verdicts[put + "one at a time", bar] == ("0.70", "**not met**")
    assert verdicts[put + "four at a time", bar] == ("0.90", "met")
    growth = "client memory, all shards to a quarter of them"
    assert verdicts[growth, "O(batches in flight): <= 1.1"] == ("1.04", "met")
    assert verdicts["1 kB samples, 1 client, TCP", ">= 1 M samples/s"] == ("-", "not measured")


def test_the_plot_is_well_formed_and_names_every_case() -> None:
    run = report.Run(lines())
    root = ET.fromstring(plot.draw(run))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for case in run.cases("110kB"):
        assert CASES[case].title in texts
    assert any("A <CPU>" in text for text in texts if text)


def test_a_report_is_written_and_published_between_its_marks(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps(value) + "\n" for value in lines()))
    text = write_report(raw, tmp_path)
    assert "commit abc" in text
    assert "- mosaicml: streaming can't be imported" in text
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    publish(raw, document)
    published = document.read_text()
    assert published.startswith("before\n")
    assert published.endswith("\nafter\n")
    assert "old" not in published
    assert "(benchmarks.svg)" in published
    assert (tmp_path / "benchmarks.svg").exists()
    publish(raw, document)
    assert document.read_text() == published


def test_a_small_run(tmp_path: Path) -> None:
    """All that needs no peer, from shards to report."""
    command = [sys.executable, str(HERE / "bench.py"), "--quick", "--out", str(tmp_path)]
    chosen = ["--data", "1kB", "--clients", "1,2", "--cases", "tcp,shardstream-tcp"]
    helpers = tmp_path / "helpers"
    helpers.mkdir()
    build = ["go", "build", "-o", str(helpers), "./tests/bench/loopback", "./tests/bench/members"]
    subprocess.run(build, cwd=ROOT, env={**os.environ, "CGO_ENABLED": "0"}, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, *chosen, "--helpers", str(helpers)],
        env={**os.environ, "PATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = report.Run.load(tmp_path / "raw.jsonl")
    assert run.cases("1kB") == run.cases("1kB", 2) == chosen[-1].split(",")
    assert run.warm("1kB", "shardstream-tcp")["quality"]["exactly_once"]
    assert run.single["up_s"]
    assert len(run.single["python"]) == 1
    assert not run.skipped
    assert "shardstream, TCP" in (tmp_path / "report.md").read_text()
    ET.fromstring((tmp_path / "report.svg").read_text())
    assert not (tmp_path / "cluster").exists()


def test_a_small_run_of_augmentation(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed (TORCH=none)")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, str(HERE / "augment.py"), "--quick", "--out", str(tmp_path)],
        env={**os.environ, "PATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = augment.Run(tmp_path / augment.RAW)
    assert set(run.rows) == set(augment.TITLES)
    text = (tmp_path / augment.REPORT).read_text()
    for title in augment.TITLES.values():
        assert f"| {title} |" in text
    assert not (tmp_path / "cluster-etl").exists()


def test_a_report_of_augmentation_has_ratios_of_the_same_round(tmp_path: Path) -> None:
    about = lines()[0]["about"]
    data = {"samples": 100, "batch": 10, "payload_bytes": 10**7, "shards": 2}
    rows = []
    for round_, slow in enumerate([1, 1, 10, 2]):
        for case, wall, cpu in (("shardstream", 2, 0.5), ("webdataset", 4, 20), ("alone", 1.9, 4)):
            span = {"wall_s": wall * slow, "cpu_s": cpu * slow, "samples": 1000, "bytes": 1}
            rows.append({"row": {
                "case": case, "round": round_, "load": 1.0, "version": "1", "server_cpu_s": 4.0,
                "samples": 2000, "steady": span, "first": span, "first_batch_s": 0.1,
            }})  # fmt: skip
    raw = tmp_path / augment.RAW
    told = [{"about": about}, {"data": data}, *rows, {"took_s": 60.0}]
    raw.write_text("".join(json.dumps(line) + "\n" for line in told))
    text = augment.report(augment.Run(raw))
    assert "| trainer's CPU <= 0.1 of webdataset's | 0.025 | met |" in text
    assert "in as many processes | 0.95 | met |" in text
    assert "| samples/s to webdataset's | 2.00 | - |" in text
    assert "| 250 (50-500) | 1.000 | 2.000 |" in text


def test_photos_are_jpegs_of_about_the_size(tmp_path: Path) -> None:
    manifest = generate(tmp_path, replace(PHOTOS, shards=1, shard_bytes=6 << 20))
    sizes = []
    with tarfile.open(tmp_path / manifest.files[0]) as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                picture = Image.open(tar.extractfile(member))
                picture.load()
                assert picture.mode == "RGB"
                assert 390 <= max(picture.size) <= 700
                sizes.append(member.size)
    assert 80_000 < sum(sizes) / len(sizes) < 140_000
    assert len(set(sizes)) > len(sizes) / 2

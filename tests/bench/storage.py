"""What the charter asks of the cluster beside its streams: start, durable PUT, member reads."""

from __future__ import annotations

import json
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import procfs
from localcluster import Cluster
from passes import cpu_seconds
from readers import BUCKET_OF
from shards import Manifest

PUT_BUCKET = "bench-put"
COPY_BYTES = 1 << 20

Figures = dict[str, Any]


def start_times(binary: str, folder: Path, times: int) -> Figures:
    """Seconds of `up` until a cluster without data is ready."""
    taken = []
    for _ in range(times):
        with Cluster(binary, folder) as cluster:
            taken.append(cluster.up_s)
    return {"up_s": taken}


def durable_puts(cluster: Cluster, files: list[Path], disk: Path, rounds: int) -> Figures:
    """PUT of shards, one copy, beside a plain copy to a file with fsync; they take turns.

    One object at a time and as many as `shardstream put` sends at once; the plain copy one at a
    time, which is the faster way on one disk.
    """
    import shardstream as ss

    size = sum(file.stat().st_size for file in files)
    rates: dict[str, list[float]] = {"fsync": [], "put": [], "put-parallel": []}
    with ss.Client(cluster.endpoint) as client:
        bucket = client.bucket(PUT_BUCKET).create(mirror=1, exist_ok=True)

        def put() -> None:
            for file in files:
                bucket.put(file.name, file)

        def put_parallel() -> None:
            cluster.run("put", *map(str, files), f"ss://{PUT_BUCKET}/")

        def fsync() -> None:
            for file in files:
                _copy_durably(file, disk / "fsync.part")

        ways: dict[str, Callable[[], None]] = {
            "fsync": fsync, "put": put, "put-parallel": put_parallel
        }  # fmt: skip
        for round_ in range(rounds + 1):  # the first one warms up
            for name, way in ways.items():
                start = time.monotonic()
                way()
                if round_:
                    rates[name].append(size / 1e6 / (time.monotonic() - start))
        bucket.drop(force=True)
    (disk / "fsync.part").unlink()
    return {"bytes": size, "files": len(files), "mb_s": rates}


def _copy_durably(source: Path, target: Path) -> None:
    """What a durable write takes at least: a new file, its bytes and its name on disk."""
    target.unlink(missing_ok=True)
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        buffer = memoryview(bytearray(COPY_BYTES))
        while n := read.readinto(buffer):
            write.write(buffer[:n])
        os.fsync(write.fileno())
    folder = os.open(target.parent, os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def member_reads(
    cluster: Cluster, manifest: Manifest, tars: Path, helper: Path, count: int, rounds: int
) -> Figures:
    """Single members of shards in random order, through GET ?member=, by three kinds of client."""
    reads = _random_members(manifest, tars, count)
    bucket = BUCKET_OF.format(manifest.spec.name.lower())
    lines = "".join(
        f"/v1/objects/{bucket}/{shard}?member={member} {size}\n" for shard, member, size in reads
    )

    def by_http(workers: int) -> Figures:
        done = subprocess.run(
            [str(helper), cluster.endpoint, str(workers)],
            input=lines, env=cluster.environment(), stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        return dict(json.loads(done.stdout))

    ways: dict[str, Callable[[], Figures]] = {
        "python": lambda: _by_client(cluster.endpoint, bucket, reads),
        "http-1": lambda: by_http(1),
        "http-4": lambda: by_http(4),
    }
    nodes = [pid for pids in cluster.pids().values() for pid in pids]
    result: dict[str, list[Figures]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):  # the first one warms up
        for name, way in ways.items():
            before = procfs.cpu_seconds(nodes)
            figures = way()
            figures["server_cpu_s"] = procfs.cpu_seconds(nodes) - before
            if round_:
                result[name].append(figures)
    return result


def _random_members(manifest: Manifest, tars: Path, count: int) -> list[tuple[str, str, int]]:
    members = []
    for name in manifest.files:
        with tarfile.open(tars / name) as tar:
            members += [
                (name, member.name, member.size)
                for member in tar
                if member.name.endswith(manifest.spec.fields[0])
            ]
    picked = random.Random(manifest.spec.seed).sample(members, min(count, len(members)))
    return picked


def _by_client(endpoint: str, bucket: str, reads: list[tuple[str, str, int]]) -> Figures:
    import shardstream as ss

    total, start, cpu = 0, time.monotonic(), cpu_seconds()
    with ss.Client(endpoint) as client:
        place = client.bucket(bucket)
        for shard, member, size in reads:
            content = place.get(shard, member=member)
            if len(content) != size:
                raise RuntimeError(f"{shard}/{member}: {len(content)} bytes, not {size}")
            total += size
    wall = time.monotonic() - start
    cpu_s = cpu_seconds() - cpu
    return {"samples": len(reads), "bytes": total, "wall_s": wall, "cpu_s": cpu_s}

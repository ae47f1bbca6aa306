"""What a training process leaves behind, and what it has while it runs: nothing can be stale."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shardstream as ss
from clusters import Cluster, shard, wait_for
from conftest import SAMPLES
from shardstream.numpy import IterableDataset

SOURCE = "ss://train/shard-*.tar"

#: Prints a line in mid-epoch, then goes on for ever: an epoch at a time.
RUNS = """
import signal, sys
from shardstream.numpy import IterableDataset
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in background ignore it
ds = IterableDataset(sys.argv[1], batch_size=16, prefetch=2)
try:
    kept = next(iter(ds))
    print(*kept["__key__"], flush=True)
    while True:
        for batch in ds:
            pass
except KeyboardInterrupt:
    pass
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty directory that a process gets as its home, its temporary and its working one."""
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def running(cluster: Cluster, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in mid-epoch."""
    names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
    process = subprocess.Popen(
        [sys.executable, "-c", RUNS, SOURCE],
        env={**cluster.environment, **dict.fromkeys(names, str(home))},
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def children(pid: int) -> str:
    return "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))


def named_shared_memory(pid: int) -> list[str]:
    """What a process has mapped or opened of /dev/shm, whose names outlive it."""
    found = Path(f"/proc/{pid}/maps").read_text().splitlines()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return [name for name in found if "/dev/shm/" in name]


def test_no_children_no_named_memory_no_files(running: subprocess.Popen[str], home: Path) -> None:
    assert children(running.pid) == ""
    assert named_shared_memory(running.pid) == []
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_run_leaves_nothing_and_hinders_none(
    running: subprocess.Popen[str], home: Path, at_cluster: Cluster, how: signal.Signals
) -> None:
    running.send_signal(how)
    assert running.wait(30) == (0 if how == signal.SIGINT else -how)
    assert list(home.iterdir()) == []
    with IterableDataset(SOURCE, batch_size=16, timeout=20) as ds:
        assert sum(len(batch["__key__"]) for batch in ds) == SAMPLES


FLAT = """
import os, sys
from shardstream.numpy import IterableDataset

def footprint():
    status = open("/proc/self/status").read()
    resident = int(status.split("VmRSS:")[1].split()[0]) << 10
    slots = open("/proc/self/maps").read().count("memfd:")
    return resident, slots, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

ds = IterableDataset(sys.argv[1], batch_size=16)
for epoch in range(20):
    for batch in ds:
        del batch
    if epoch == 4:
        before = footprint()
after = footprint()
grown = [b - a for a, b in zip(before, after)]
assert grown[0] < 16 << 20, f"{grown[0]} bytes more after 20 epochs than after 5"
assert grown[1] <= 4 and grown[2] <= 4, grown  # one for each of 15 epochs would be a leak
assert grown[3] <= 4, "threads: " + str(grown[3])
print("flat")
"""


def test_twenty_epochs_take_no_more_memory_than_five(cluster: Cluster) -> None:
    done = cluster.python(FLAT, SOURCE)
    assert (done.stdout, done.returncode) == ("flat\n", 0), done.stderr


WORKERS = """
import signal, sys
import shardstream as ss
from torch.utils.data import DataLoader
signal.signal(signal.SIGINT, signal.default_int_handler)
if __name__ == "__main__":
    ds = ss.IterableDataset(sys.argv[1], batch_size=4)
    loader = DataLoader(ds, batch_size=None, num_workers=2, multiprocessing_context="fork",
                        persistent_workers=True)
    try:
        while True:
            for batch in loader:
                pids = [worker.pid for worker in loader._iterator._workers]
                print(*pids, flush=True)
    except KeyboardInterrupt:
        pass
"""


def test_ctrl_c_ends_workers_too(cluster: Cluster, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    script = tmp_path / "train.py"
    script.write_text(WORKERS)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), SOURCE],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # workers may say that they were interrupted
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        assert len(pids) == 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.communicate(timeout=60)
        assert process.returncode is not None
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    finally:
        process.kill()
        process.communicate()


def test_the_first_batch_needs_no_more_than_what_is_read_ahead(
    client: ss.Client, at_cluster: Cluster
) -> None:
    bucket = client.bucket("first-batch").create()
    for number in range(8):
        bucket.put(f"{number}.tar", shard(number * 250, 250))
    with IterableDataset("ss://first-batch/*.tar", batch_size=4, prefetch=1) as ds:
        next(iter(ds))
        received = sum(target["samples"] for target in ds.stats()["targets"].values())
        assert 4 <= received <= 2000 // 4
        assert ds.info()["samples"] == 2000


def test_what_a_trainer_gets_of_the_index_does_not_grow_with_it(
    client: ss.Client, at_cluster: Cluster
) -> None:
    bucket = client.bucket("many-shards").create()
    for number in range(120):
        bucket.put(f"{number:03}.tar", shard(number, 1))
    sizes = []
    for source in ("ss://many-shards/000.tar", "ss://many-shards/*.tar"):
        with IterableDataset(source, batch_size=4) as ds:
            sizes.append(len(json.dumps(ds._describe())))  # all that it is told of the data
    assert sizes[1] - sizes[0] < 16  # digits of the counts


def only_dense(sample: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    return {"x": np.zeros(8, np.float32), "n": int(sample["cls"])}


def test_a_batch_of_small_arrays_is_one_object_for_each_column(
    client: ss.Client, at_cluster: Cluster
) -> None:
    client.etl.create("only-dense", only_dense)
    with IterableDataset(SOURCE, batch_size=100, etl="only-dense") as ds:
        batch = next(iter(ds))
    assert (batch["x"].shape, batch["n"].shape) == ((100, 8), (100,))
    assert batch["x"].base is not None  # a view on the loader's memory

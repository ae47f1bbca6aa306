"""The dataset in torch's DataLoader, against a real cluster."""

from __future__ import annotations

import os
import pickle
import time
from typing import Any

import pytest
import shardstream as ss
from clusters import Cluster, payload
from conftest import SAMPLES

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.utils.data import DataLoader, get_worker_info  # noqa: E402

SOURCE = "ss://train/shard-*.tar"
#: Python 3.12 and later warn of any fork of a process with threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


def numbers(sample: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    number = int(sample["cls"])
    return {
        "number": number,
        "wave": np.arange(12, dtype=np.float32).reshape(3, 4) * number,
        "raw": sample["bin"],
        "ragged": np.full(number % 3, number, np.uint8),
    }


@pytest.fixture(scope="module", autouse=True)
def _etl(cluster: Cluster) -> None:
    with ss.Client(cluster.endpoint) as client:
        client.etl.create("numbers", numbers)


def dataset(**options: Any) -> ss.IterableDataset:
    return ss.IterableDataset(SOURCE, **{"batch_size": 16, "timeout": 30, **options})


def keys(batches: Any) -> list[str]:
    return [key for batch in batches for key in batch["__key__"]]


def loader(
    ds: ss.IterableDataset, workers: int = 0, method: str | None = None, **options: Any
) -> Any:
    return DataLoader(
        ds, batch_size=None, num_workers=workers, multiprocessing_context=method, **options
    )


def test_it_is_a_torch_dataset_and_yields_tensors() -> None:
    ds = dataset(etl="numbers")
    assert isinstance(ds, torch.utils.data.IterableDataset)
    for batch in ds:
        n = len(batch["__key__"])
        assert (batch["number"].dtype, batch["number"].shape) == (torch.int64, (n,))
        assert (batch["wave"].dtype, batch["wave"].shape) == (torch.float32, (n, 3, 4))
        assert [int(k) for k in batch["__key__"]] == batch["number"].tolist()
        assert torch.equal(batch["wave"][:, 2, 3], batch["number"] * 11.0)
        assert [t.tolist() for t in batch["ragged"]] == [
            [i] * (i % 3) for i in batch["number"].tolist()
        ]
        batch["wave"] += 1  # writeable, without a warning


def test_no_workers() -> None:
    with dataset() as ds:
        want = keys(ds)
        ds.set_epoch(0)
        through = loader(ds)
        assert len(through) == 15
        batches = list(through)
        assert keys(batches) == want
        assert isinstance(batches[0]["bin"], ss.BytesColumn)
        assert batches[0]["bin"].tolist()[3] == payload(int(batches[0]["__key__"][3]))


def test_a_loader_that_stacks_batches_once_more_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="give it batch_size=None"), pytest.raises(TypeError):
        next(iter(DataLoader(dataset())))
    with dataset(fields=["cls"]) as ds:
        mine = DataLoader(ds, batch_size=1, collate_fn=lambda batches: batches[0])  # knows
        assert len(next(iter(mine))["__key__"]) == 16


def test_batch_by_batch_memory_through_the_loader() -> None:
    with dataset(etl="numbers", prefetch=2) as ds:
        for batch in loader(ds):
            del batch
        assert ds._stream is not None
        assert ds._stream.held == 0
        assert len(ds._stream._slots) <= 4


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_make_the_same_sequence(method: str) -> None:
    want = keys(dataset(etl="numbers"))  # the native loader is in use here
    with dataset(etl="numbers") as ds:
        batches = list(loader(ds, 2, method))
    assert keys(batches) == want
    assert [int(n) for b in batches for n in b["number"]] == [int(k) for k in want]
    for batch in batches:
        for key, data in zip(batch["__key__"], batch["raw"], strict=True):
            assert data == payload(int(key))


def test_more_workers_than_shards_and_than_batches() -> None:
    source = "ss://train/shard-3.tar"  # one shard of one sample
    for path, size, samples in ((source, 4, 1), ("ss://train/shard-0.tar", 16, 40)):
        ds = ss.IterableDataset(path, batch_size=size, timeout=30)
        want = keys(ss.IterableDataset(path, batch_size=size, timeout=30))
        assert keys(loader(ds, 2, "forkserver")) == want
        assert len(want) == samples


def test_epochs_and_resume_through_workers() -> None:
    reference = dataset(seed=9)
    epochs = [keys(reference) for _ in range(5)]
    ds = dataset(seed=9)
    workers = loader(ds, 2, "forkserver")
    assert keys(workers) == epochs[0]
    assert keys(workers) == epochs[1]  # without set_epoch
    ds.set_epoch(3)
    assert keys(workers) == epochs[3]
    assert keys(workers) == epochs[4]
    with pytest.raises(ValueError, match="consumed"):
        ds.state_dict()
    state = ds.state_dict(consumed=5)
    assert (state["epoch"], state["position"]) == (4, 80)
    assert state["snapshot"] == reference.info()["snapshot"]
    ds.set_epoch(1)
    passing = iter(workers)
    got = keys(next(passing) for _ in range(3))
    state = ds.state_dict(consumed=3)
    del passing
    assert got == epochs[1][:48]
    for fresh in (dataset(seed=9), ds):
        fresh.load_state_dict(state)
        again = loader(fresh, 1, "forkserver")
        assert keys(again) == epochs[1][48:]  # with another number of workers
        assert keys(again) == epochs[2]


def test_persistent_workers() -> None:
    reference = dataset()
    epochs = [keys(reference) for _ in range(6)]
    ds = dataset()
    workers = loader(ds, 2, "forkserver", persistent_workers=True)
    assert keys(workers) == epochs[0]
    assert keys(workers) == epochs[1]
    ds.set_epoch(5)
    assert keys(workers) == epochs[5]
    state = {**ds.state_dict(consumed=0), "epoch": 2, "position": 32}
    ds.load_state_dict(state)
    assert keys(workers) == epochs[2][32:]
    assert keys(workers) == epochs[3]


FORK_FIRST = """
import sys, warnings
warnings.filterwarnings("ignore", message=".*use of fork")
import shardstream as ss
from torch.utils.data import DataLoader
ds = ss.IterableDataset(sys.argv[1], batch_size=16, etl="numbers")
def keys(batches): return [k for b in batches for k in b["__key__"]]
workers = DataLoader(ds, batch_size=None, num_workers=2, multiprocessing_context="fork")
one, two = keys(workers), keys(workers)
state = ds.state_dict(consumed=4)
assert "_pybind" not in open("/proc/self/maps").read()
alone = ss.IterableDataset(sys.argv[1], batch_size=16, etl="numbers")
assert one == keys(alone), "epoch 0"
assert two == keys(alone), "epoch 1"
alone.load_state_dict(state)
assert keys(alone) == two[64:], "resume"
print(len(one))
"""


def test_fork_before_use(cluster: Cluster) -> None:
    done = cluster.python(FORK_FIRST, SOURCE)
    assert (done.stdout, done.returncode) == (f"{SAMPLES}\n", 0), done.stderr


FORK_AFTER = """
import sys, time, warnings
warnings.filterwarnings("ignore", message=".*use of fork")
import shardstream as ss
from torch.utils.data import DataLoader
ds = ss.IterableDataset(sys.argv[1], batch_size=16)
next(iter(ds))
start = time.monotonic()
try:
    next(iter(DataLoader(ds, batch_size=None, num_workers=2, multiprocessing_context="fork")))
except ss.ForkedError as error:
    assert "forkserver" in str(error) and "num_workers=0" in str(error)
    print("refused", time.monotonic() - start < 5)
"""


def test_fork_after_use_is_refused_not_hung(cluster: Cluster) -> None:
    done = cluster.python(FORK_AFTER, SOURCE)
    assert (done.stdout, done.returncode) == ("refused True\n", 0), done.stderr


RANK = """
import os, sys
import torch.distributed as dist
import shardstream as ss
dist.init_process_group("gloo")
ds = ss.IterableDataset(sys.argv[1], batch_size=16)
keys = [b["__key__"] for b in ds]
everyone = [None, None]
dist.all_gather_object(everyone, keys)
if dist.get_rank() == 0:
    print(len(ds), [k for step in zip(*everyone) for part in step for k in part])
dist.destroy_process_group()
"""


def test_ranks_of_torch_distributed(cluster: Cluster, tmp_path: Any) -> None:
    import socket
    import subprocess
    import sys

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    common = {
        **cluster.environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, SOURCE],
            env={**common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    answers = [rank.communicate(timeout=100)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert answers[0] == f"8 {keys(dataset())}\n"


def test_errors_in_workers_keep_their_type() -> None:
    ds = ss.IterableDataset("ss://train/none-*.tar", batch_size=4, timeout=5)
    with pytest.raises(ss.NotFoundError):
        next(iter(loader(ds, 1, "forkserver")))


def test_state_of_a_stateful_loader_s_workers() -> None:
    """What StatefulDataLoader does: state_dict and load_state_dict inside the workers."""
    want = keys(dataset(seed=2))
    ds = Stateful(SOURCE, batch_size=16, seed=2, timeout=30)
    batches = list(loader(ds, 2, "forkserver"))
    assert keys(b for b, _ in batches) == want
    # Each worker resumes behind its own last batch before the cut at batch 5.
    states = {0: batches[4][1], 1: batches[3][1]}
    assert all(len(pickle.dumps(s)) < 1000 for s in states.values())
    ds = Stateful(SOURCE, batch_size=16, seed=2, timeout=30)
    ds.to_load = states
    resumed = loader(ds, 2, "forkserver")
    # Batch 5 is worker 1's; a stateful loader asks it first, torch's own begins with worker 0.
    rest = [b["__key__"] for b, _ in resumed]
    assert sorted(k for part in rest for k in part) == sorted(want[80:])
    ds.to_load = {}
    assert keys(b for b, _ in loader(ds, 2, "forkserver")) == keys(_epoch(1, seed=2))


def _epoch(epoch: int, **options: Any) -> ss.IterableDataset:
    ds = dataset(**options)
    ds.set_epoch(epoch)
    return ds


class Stateful(ss.IterableDataset):
    """Hands out each batch with the state behind it."""

    to_load: dict[int, Any] = {}  # noqa: RUF012

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "to_load": self.to_load}

    def __iter__(self) -> Any:
        info = get_worker_info()
        if self.to_load:
            assert info is not None
            self.load_state_dict(self.to_load[info.id])
        for batch in super().__iter__():
            yield batch, self.state_dict()


def test_pickle_of_the_torch_class() -> None:
    ds = dataset(seed=4)
    copy = pickle.loads(pickle.dumps(ds))
    assert (type(copy), repr(copy)) == (type(ds), repr(ds))
    assert len(pickle.dumps(ds)) < 1000
    assert keys(copy) == keys(ds)


def test_a_pass_that_is_given_up_leaves_no_process() -> None:
    workers = iter(loader(dataset(), 2, "forkserver"))
    next(workers)
    pids = [worker.pid for worker in workers._workers]
    del workers
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)

"""Streams from a real cluster into numpy, in a plain loop."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shardstream as ss
from clusters import COMMAND, Cluster, payload, shard, tar_of, wait_for
from conftest import SAMPLES
from shardstream._dataset import IterableDataset

SOURCE = "ss://train/shard-*.tar"


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


def dataset(**options: Any) -> IterableDataset:
    return IterableDataset(SOURCE, **{"batch_size": 16, "timeout": 20, **options})


def keys(batches: Any) -> list[str]:
    return [key for batch in batches for key in batch["__key__"]]


ALL = [f"{number:06}" for number in range(SAMPLES)]


def test_an_epoch_is_every_sample_once_with_its_bytes() -> None:
    with dataset() as ds:
        batches = list(ds)
        assert [len(b["__key__"]) for b in batches] == [16] * 14 + [3]
        assert len(ds) == 15
        assert ds.info()["samples"] == SAMPLES
        assert sorted(keys(batches)) == ALL
        for batch in batches:
            assert set(batch) == {"__key__", "bin", "cls"}
            for key, data, label in zip(batch["__key__"], batch["bin"], batch["cls"], strict=True):
                assert data == payload(int(key))
                assert int(bytes(label)) == int(key)


@pytest.mark.parametrize("shuffle", ["global", "window", "shards", None])
def test_shuffles(shuffle: str | None) -> None:
    orders = [keys(dataset(shuffle=shuffle, seed=seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert all(sorted(order) == ALL for order in orders)
    if shuffle is None:
        assert orders[0] == orders[2] == ALL
    else:
        assert orders[0] != orders[2]
        assert orders[0] != ALL


def test_epochs_differ_and_repeat() -> None:
    with dataset() as ds:
        first, second = keys(ds), keys(ds)
        assert first != second
        ds.set_epoch(0)
        assert keys(ds) == first


def test_fields() -> None:
    batch = next(iter(dataset(fields=["cls"])))
    assert set(batch) == {"__key__", "cls"}


def test_batch_size_changes_no_order() -> None:
    assert keys(dataset(batch_size=1)) == keys(dataset(batch_size=1000)) == keys(dataset())


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_one_sequence(world: int) -> None:
    per_rank = [list(dataset(rank=rank, world_size=world)) for rank in range(world)]
    assert len({len(batches) for batches in per_rank}) == 1
    union = [
        key
        for step in zip(*per_rank, strict=True)
        for batch in step
        if "__mask__" not in batch
        for key in batch["__key__"]
    ]
    assert union == keys(dataset())


def test_more_ranks_than_samples_in_the_last_step_are_padded() -> None:
    # 227 = 28 * 8 + 3: in the last step five of eight ranks have no sample left.
    batches = [list(dataset(batch_size=1, rank=r, world_size=8))[-1] for r in range(8)]
    assert [b.get("__mask__", np.array([True])).tolist() for b in batches] == (
        [[True]] * 3 + [[False]] * 5
    )


def test_drop_last() -> None:
    with dataset(drop_last=True) as ds:
        assert [len(b["__key__"]) for b in ds] == [16] * 14
        assert len(ds) == 14


@pytest.mark.parametrize("k", [0, 1, 7, 14, 15])
def test_resume_bit_for_bit_twice_and_on_another_world_size(k: int) -> None:
    ds = dataset(seed=5)
    it = iter(ds)
    head = [next(it) for _ in range(k)]
    state = ds.state_dict()
    rest = [(b["__key__"], b["bin"].tolist()) for b in it]
    following = keys(ds)
    for _ in range(2):
        resumed = dataset(seed=5)
        resumed.load_state_dict(state)
        assert [(b["__key__"], b["bin"].tolist()) for b in resumed] == rest
        assert keys(resumed) == following
    parts = []
    for rank in range(3):
        part = dataset(seed=5, batch_size=5, rank=rank, world_size=3)
        part.load_state_dict(state)
        parts.append(list(part))
    union = [
        key
        for step in zip(*parts, strict=True)
        for batch in step
        if "__mask__" not in batch
        for key in batch["__key__"]
    ]
    assert keys(head) + union == keys(dataset(seed=5))


def test_a_state_of_data_that_changed_is_refused(client: ss.Client) -> None:
    bucket = client.bucket("changing").create()
    bucket.put("1.tar", shard(0, 20))
    source = "ss://changing/*.tar"
    ds = IterableDataset(source, batch_size=4)
    next(iter(ds))
    state = ds.state_dict()
    assert state["snapshot"] == ds.info()["snapshot"]
    bucket.put("2.tar", shard(20, 5))
    resumed = IterableDataset(source, batch_size=4)
    resumed.load_state_dict(state)
    with pytest.raises(ss.SnapshotChangedError, match="snapshot"):
        next(iter(resumed))
    assert len(keys(IterableDataset(source, batch_size=4))) == 25


def arrays(sample: dict[str, Any]) -> dict[str, Any]:
    data = np.frombuffer(sample["bin"], np.uint8)
    number = int(sample["cls"])
    return {
        "head": data[:96].reshape(4, 8, 3),
        "mean": float(data.mean()),
        "number": number,
        "even": number % 2 == 0,
        "text": f"sample {number}",
        "ragged": np.arange(number % 3, dtype=np.float32),
        "raw": sample["bin"][:5],
        "half": np.float16(number / 2),
    }


def numbered(sample: dict[str, Any], add: int = 0) -> dict[str, Any]:
    return {"number": int(sample["cls"]) + add}


def stacked(samples: list[dict[str, Any]], *, factor: int) -> dict[str, Any]:
    numbers = np.array([s["number"] for s in samples])
    return {
        "square": np.stack([numbers * factor] * 4, axis=1).reshape(-1, 2, 2),
        "text": [f"no {n}" for n in numbers],
        "seeded": [s["__seed__"] != 0 for s in samples],
    }


def test_a_chain_of_sample_and_batch_functions_with_arguments(client: ss.Client) -> None:
    client.etl.create("numbered", numbered)
    client.etl.create("stacked", stacked, level="batch", args={"factor": 1})
    chain: dict[str, Any] = {
        "etl": ["numbered", "stacked"],
        "etl_args": [{"add": 5}, {"factor": 2}],
    }
    seen = []
    for batch in dataset(**chain):
        n = len(batch["__key__"])
        assert batch["square"].shape == (n, 2, 2)
        assert batch["seeded"].all()
        for key, square, text in zip(batch["__key__"], batch["square"], batch["text"], strict=True):
            assert (square == 2 * (int(key) + 5)).all()
            assert text == f"no {int(key) + 5}"
            seen.append(key)
    assert sorted(seen) == ALL
    assert dataset(**chain).info()["etl_version"] > 0
    with pytest.raises(ss.ETLError, match=r"the arguments given \(sub\) do not fit numbered"):
        next(iter(dataset(etl="numbered", etl_args={"sub": 5})))
    with pytest.raises(ss.NotFoundError, match="nobody"):
        next(iter(dataset(etl=["numbered", "nobody"])))


def test_closures_travel_by_cloudpickle(client: ss.Client) -> None:
    pytest.importorskip("cloudpickle")
    offset = 1000

    def shifted(sample: dict[str, Any]) -> dict[str, Any]:
        return {"number": numbered(sample)["number"] + offset}

    with pytest.raises(ValueError, match="by='cloudpickle'"):
        client.etl.create("shifted", shifted)
    client.etl.create("shifted", shifted, by="cloudpickle")
    for batch in dataset(etl="shifted"):
        assert batch["number"].tolist() == [int(key) + 1000 for key in batch["__key__"]]
    with pytest.raises(ValueError, match=r"python='3\.1'"):
        client.etl.create("shifted", shifted, by="cloudpickle", python="3.1")


def test_columns_of_a_transformation(client: ss.Client) -> None:
    client.etl.create("arrays", arrays)
    seen = 0
    for batch in dataset(etl="arrays"):
        n = len(batch["__key__"])
        assert (batch["head"].shape, batch["head"].dtype) == ((n, 4, 8, 3), np.uint8)
        assert (batch["mean"].shape, batch["mean"].dtype) == ((n,), np.float64)
        assert (batch["number"].dtype, batch["even"].dtype) == (np.int64, np.bool_)
        assert batch["half"].dtype == np.float16
        for i, key in enumerate(batch["__key__"]):
            want = arrays({"bin": payload(int(key)), "cls": key})
            for name in ("head", "mean", "number", "even", "half", "ragged"):
                np.testing.assert_array_equal(batch[name][i], want[name])
            assert batch["text"][i] == want["text"]
            assert batch["raw"][i] == want["raw"]
            seen += 1
    assert seen == SAMPLES


def breaks_at_100(sample: dict[str, Any]) -> dict[str, Any]:
    number = int(sample["cls"])
    if number == 100:
        raise ValueError(f"no {number}, please")
    return {"number": number}


def test_errors_of_user_code_name_the_sample_and_show_the_traceback(client: ss.Client) -> None:
    client.etl.create("breaks", breaks_at_100)
    with pytest.raises(ss.SampleETLError, match="000100") as caught:
        list(dataset(etl="breaks"))
    assert "no 100, please" in str(caught.value)
    assert "Traceback" in str(caught.value)
    with dataset(etl="breaks", on_error="skip") as ds:
        assert sorted(keys(ds)) == [key for key in ALL if key != "000100"]
        stats = ds.stats()
        assert (stats["skipped"], stats["skipped_keys"]) == (1, ["000100"])
    with pytest.warns(ss.SkippedSampleWarning, match="000100"):
        list(dataset(etl="breaks", on_error="warn"))


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("ss://train/nothing-*.tar", "no_match"),
        ("ss://nowhere/*.tar", "no_such_bucket"),
        ("ss://train/missing.tar", "no_match"),
    ],
)
def test_sources_that_match_nothing(source: str, code: str) -> None:
    ds = IterableDataset(source, batch_size=4, timeout=5)
    with pytest.raises(ss.NotFoundError) as caught:
        next(iter(ds))
    assert caught.value.code == code
    with pytest.raises(ss.NotFoundError):
        len(ds)


def test_unknown_transformation() -> None:
    with pytest.raises(ss.NotFoundError, match="nobody"):
        next(iter(dataset(etl="nobody", timeout=5)))


def test_no_cluster_there() -> None:
    start = time.monotonic()
    with pytest.raises(ss.ShardstreamError):
        next(iter(dataset(endpoint="http://127.0.0.1:9", timeout=1)))
    assert time.monotonic() - start < 10


def test_a_flipped_byte_fails_the_stream(client: ss.Client) -> None:
    bucket = client.bucket("flipped").create()
    bucket.put("s.tar", shard(0, 30))
    file = Path(bucket.locate("s.tar").copies[0].files[0])
    stored = bytearray(file.read_bytes())
    at = stored.index(payload(17)[:50])
    stored[at + 10] ^= 1
    file.write_bytes(stored)
    with pytest.raises(ss.SampleCorruptError, match=r"s\.tar") as caught:
        list(IterableDataset("ss://flipped/*.tar", batch_size=4, timeout=10))
    assert "block" in str(caught.value)


def test_batches_that_are_kept_stay_as_they_are() -> None:
    with dataset(batch_size=4, prefetch=1) as ds:
        kept = list(ds)
        assert sorted(keys(kept)) == ALL
    for batch in kept:
        for key, data in zip(batch["__key__"], batch["bin"], strict=True):
            assert data == payload(int(key))


def test_memory_is_reused_from_batch_to_batch() -> None:
    with dataset(batch_size=4, prefetch=2) as ds:
        for _ in range(3):
            for batch in ds:
                del batch
        assert ds._stream is not None
        assert len(ds._stream._slots) <= 4
        assert ds._stream.held == 0


def test_stats() -> None:
    with dataset() as ds:
        list(ds)
        stats = ds.stats()
    assert (stats["batches"], stats["samples"], stats["skipped"]) == (15, SAMPLES, 0)
    assert stats["bytes"] == sum(len(payload(n)) + len(str(n)) for n in range(SAMPLES))
    assert sum(t["samples"] for t in stats["targets"].values()) == SAMPLES


@pytest.mark.parametrize(("shared", "transport"), [(True, "shared_memory"), (False, "tcp")])
def test_targets_of_this_machine_share_memory_unless_told_not_to(
    shared: bool, transport: str
) -> None:
    with dataset(shared_memory=shared) as ds:
        assert len(keys(ds)) == 227
        targets = ds.stats()["targets"]
        assert {target["transport"] for target in targets.values()} == {transport}


def test_the_environment_switches_shared_memory_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDSTREAM_SHARED_MEMORY", "off")
    assert not dataset().shared_memory
    assert dataset(shared_memory=True).shared_memory


def test_many_sources_and_braces() -> None:
    ds = IterableDataset(
        ["ss://train/shard-{0..1}.tar", "ss://train/shard-3.tar"], batch_size=8, shuffle=None
    )
    assert keys(ds) == ALL[:77] + ALL[118:119]


def test_odd_samples(client: ss.Client) -> None:
    bucket = client.bucket("odd").create()
    bucket.put("a.tar", tar_of({"d/ü.jpg": b"", "d/ü.seg.png": b"x", "e.jpg": b"y"}))
    (batch,) = IterableDataset("ss://odd/a.tar", batch_size=8, shuffle=None)
    assert batch["__key__"] == ["d/ü", "e"]
    assert batch["jpg"].tolist() == [b"", b"y"]
    assert batch["seg.png"].tolist() == [b"x", None]


# -- faults -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(cluster: Cluster) -> str:
    """48 MiB in 16 shards: far more than sockets hold, on every target."""
    with ss.Client(cluster.endpoint) as client:
        bucket = client.bucket("large").create()
        for number in range(16):
            block = random.Random(number).randbytes(64 << 10)
            members = {f"{number:02}-{i:03}.bin": b"%08d" % i + block for i in range(48)}
            bucket.put(f"{number}.tar", tar_of(members))
    return "ss://large/*.tar"


def sums(batches: Any) -> list[tuple[str, int]]:
    return [
        (key, zlib.crc32(data))
        for batch in batches
        for key, data in zip(batch["__key__"], batch["bin"], strict=True)
    ]


def test_targets_killed_in_mid_epoch_change_nothing(cluster: Cluster, large: str) -> None:
    want = sums(IterableDataset(large, batch_size=8))
    assert len(want) == len(set(want)) == 768
    with IterableDataset(large, batch_size=8, prefetch=2, timeout=30) as ds:
        it = iter(ds)
        got = sums(next(it) for _ in range(10))
        for node in ("target-1", "target-2", "target-3"):
            killed = cluster.kill(node)
            got += sums(next(it) for _ in range(20))
            wait_for(lambda node=node, killed=killed: cluster.pid(node) != killed)  # type: ignore[misc]
        got += sums(it)
        stats = ds.stats()
    assert got == want
    assert sum(target["reconnects"] for target in stats["targets"].values()) >= 3
    assert stats["samples"] == 768


def test_a_mirrored_bucket_outlives_a_target(tmp_path: Path) -> None:
    """A target dies for good in mid-epoch: the others have copies of what it had."""
    cluster = Cluster(tmp_path / "cluster", targets=2)
    command = [
        str(COMMAND), "node", "run", "--role", "target", "--id", "mortal",
        "--join", cluster.endpoint, "--data", str(tmp_path / "mortal"), "--listen", "127.0.0.1:0",
    ]  # fmt: skip
    mortal = subprocess.Popen(command, env=cluster.environment, stderr=subprocess.DEVNULL)
    try:
        with ss.Client(cluster.endpoint) as client:
            wait_for(lambda: len(client.status()["nodes"]) == 4)
            bucket = client.bucket("mirrored").create(mirror=2)
            for number in range(12):
                block = random.Random(number).randbytes(64 << 10)
                members = {f"{number:02}-{i:03}.bin": b"%08d" % i + block for i in range(48)}
                bucket.put(f"{number}.tar", tar_of(members))
        source = "ss://mirrored/*.tar"
        want = sums(IterableDataset(source, batch_size=8, endpoint=cluster.endpoint))
        with IterableDataset(
            source, batch_size=8, prefetch=2, timeout=30, endpoint=cluster.endpoint
        ) as ds:
            it = iter(ds)
            got = sums(next(it) for _ in range(10))
            mortal.kill()
            mortal.wait()
            got += sums(it)
            before = ds.stats()["targets"]["mortal"]["samples"]
        assert got == want
        assert 0 < before < 12 * 48
        with IterableDataset(source, batch_size=8, timeout=30, endpoint=cluster.endpoint) as ds:
            assert sums(ds) == want, "an epoch that begins without it"
            assert ds.stats()["targets"].get("mortal", {}).get("samples", 0) == 0
    finally:
        mortal.kill()
        mortal.wait()
        cluster.down()


def slow(sample: dict[str, Any]) -> dict[str, Any]:
    import time

    time.sleep(60)
    return sample


def test_ctrl_c_while_waiting_takes_less_than_a_second(cluster: Cluster, client: ss.Client) -> None:
    client.etl.create("slow", slow, timeout=120)
    script = """
import signal, sys, threading, time
from shardstream._dataset import IterableDataset
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in background ignore it
ds = IterableDataset(sys.argv[1], batch_size=16, etl="slow")
it = iter(ds)
threading.Timer(1.0, lambda: print("waiting", flush=True)).start()
try:
    next(it)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, SOURCE],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - start < 1
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
        client.etl.delete("slow")


def test_exit_with_a_stream_under_way(cluster: Cluster) -> None:
    done = cluster.python(
        "import sys\n"
        "from shardstream._dataset import IterableDataset\n"
        "ds = IterableDataset(sys.argv[1], batch_size=2, prefetch=1)\n"
        "it = iter(ds); kept = next(it)\n",
        SOURCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_descriptor_is_left_after_close() -> None:
    def descriptors() -> Iterator[str]:
        for name in os.listdir("/proc/self/fd"):
            try:
                yield os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                continue

    for _ in range(3):
        with dataset() as ds:
            list(ds)
    del ds
    assert [link for link in descriptors() if "shardstream-slot" in link] == []

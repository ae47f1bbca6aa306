"""What a stream yields, what is wrong with it and what bounds it, asked of a real cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shardstream as ss
from clusters import Cluster, shard, wait_for
from conftest import SAMPLES
from shardstream._dataset import IterableDataset

SOURCE = "ss://train/shard-*.tar"
BAD = len(range(0, SAMPLES, 3))


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


def dataset(**options: Any) -> IterableDataset:
    return IterableDataset(SOURCE, **{"batch_size": 16, "timeout": 20, **options})


def breaks_on_thirds(sample: dict[str, Any]) -> dict[str, Any]:
    number = int(sample["cls"])
    if number % 3 == 0:
        raise ValueError(f"no {number}, please")
    return {"number": number, "text": str(number)}


@pytest.fixture
def thirds(client: ss.Client) -> str:
    client.etl.create("thirds", breaks_on_thirds)
    return "thirds"


# -- explain ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", ["global", "window", "shards", None])
@pytest.mark.parametrize("world", [1, 3])
def test_explain_agrees_with_the_batches(
    client: ss.Client, shuffle: str | None, world: int
) -> None:
    infos = {f"ss://train/{info.name}": info for info in client.bucket("train").list()}
    for rank in range(world):
        with dataset(shuffle=shuffle, seed=5, rank=rank, world_size=world) as ds:
            ds.set_epoch(2)
            for number, batch in enumerate(ds):
                if number % 3 and number != len(ds) - 1:
                    continue
                found = ds.explain(batch=number)
                assert found.keys == batch["__key__"]
                assert (found.epoch, found.rank, found.world_size) == (2, rank, world)
                assert (found.batch, found.shuffle) == (number, shuffle)
                assert len(found) == len(batch["__key__"])
                for origin in found:
                    assert origin.version == infos[origin.shard].version
                    assert 0 <= origin.index < infos[origin.shard].samples
                    assert origin.target.startswith("target-")
                    assert origin.error == ""


def test_explain_needs_no_iteration_and_no_native_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardstream._native.binding", None)
    ds = dataset(seed=3)
    found = ds.explain(7, 2)
    assert found.epoch == 7
    assert found[0].position == 32
    assert found.next_position == 48
    assert ds.explain(position=33, epoch=7, count=2).samples == found.samples[1:3]
    assert ds.explain(batch=0).epoch == 0
    with pytest.raises(ValueError, match="not both"):
        ds.explain(batch=1, position=3)
    with pytest.raises(ValueError, match="batch, or a position"):
        ds.explain()
    with pytest.raises(ss.RequestError, match="no batch 15"):
        ds.explain(batch=15)
    with pytest.raises(ss.RequestError, match="3 positions from 225 on"):
        ds.explain(position=225, count=3)
    with pytest.raises(ValueError, match="count is of positions"):
        ds.explain(batch=1, count=3)
    with pytest.raises(TypeError, match="snapshot"):
        ds.explain(batch=1, snapshot=5)  # type: ignore[arg-type]


def test_explain_the_rest_of_an_epoch_on_another_world_size() -> None:
    first = dataset(seed=3)
    batches = iter(first)
    for _ in range(3):
        next(batches)
    state = first.state_dict()
    second = dataset(seed=3, rank=1, world_size=2)
    second.load_state_dict(state)
    for number, batch in enumerate(second):
        assert second.explain(0, number, start=state["position"]).keys == batch["__key__"]


def test_explain_what_was_streamed_though_the_data_has_changed(client: ss.Client) -> None:
    bucket = client.bucket("explained").create()
    for number in range(2):
        bucket.put(f"{number}.tar", shard(10 * number, 10))
    ds = IterableDataset("ss://explained/*.tar", batch_size=5, seed=1)
    keys = [list(batch["__key__"]) for batch in ds]
    bucket.put("2.tar", shard(20, 10))
    assert [ds.explain(0, n).keys for n in range(4)] == keys
    fresh = ds.explain(0, 5, snapshot="")
    assert fresh.snapshot != ds.explain(batch=0).snapshot
    with pytest.raises(ss.NotFoundError, match="no target keeps snapshot"):
        ds.explain(batch=0, snapshot="0" * 64)


# -- errors -----------------------------------------------------------------------------------


def test_more_errors_than_allowed(thirds: str) -> None:
    with dataset(etl=thirds, on_error="skip", max_errors=BAD) as ds:
        list(ds)
        assert ds.stats()["skipped_by_code"] == {"etl_failed": BAD}
    for budget, allowed in ((5, "max_errors=5 allows"), (0.1, "max_errors=0.1 allows")):
        with dataset(etl=thirds, on_error="skip", max_errors=budget) as ds:
            with pytest.raises(ss.TooManyErrors, match=allowed) as caught:
                list(ds)
            assert caught.value.code == "too_many_errors"
            assert "etl_failed" in str(caught.value)
            assert "please" in str(caught.value)
            assert isinstance(caught.value, ss.SampleError)


@pytest.mark.parametrize(("batch_size", "world"), [(16, 1), (1, 1), (7, 4), (64, 5)])
def test_padded_batches_have_one_shape(thirds: str, batch_size: int, world: int) -> None:
    real = []
    steps = set()
    for rank in range(world):
        options: dict[str, Any] = {"rank": rank, "world_size": world, "batch_size": batch_size}
        with dataset(etl=thirds, on_error="skip", pad=True, prefetch=16, **options) as ds:
            batches = list(ds)
            steps.add((len(batches), len(ds)))
        for batch in batches:
            assert batch["number"].shape == batch["__mask__"].shape == (batch_size,)
            assert len(batch["text"]) == len(batch["__key__"]) == batch_size
            assert batch["__mask__"].dtype == np.bool_
            for row in np.flatnonzero(batch["__mask__"]):
                assert int(batch["__key__"][row]) == batch["number"][row] == int(batch["text"][row])
                real.append(int(batch["number"][row]))
    assert sorted(real) == [n for n in range(SAMPLES) if n % 3]
    assert len(steps) == 1, "as many batches on every rank, and what len says"


def test_padding_without_errors_changes_only_the_last_step() -> None:
    plain, padded = list(dataset()), list(dataset(pad=True))
    assert [b["__key__"] for b in padded[:-1]] == [b["__key__"] for b in plain[:-1]]
    last = padded[-1]
    assert last["__mask__"].tolist() == [True] * 3 + [False] * 13
    assert last["__key__"] == plain[-1]["__key__"] + [plain[-1]["__key__"][-1]] * 13
    assert bytes(last["bin"][15]) == bytes(plain[-1]["bin"][2])
    assert all(b["__mask__"].all() for b in padded[:-1])


def test_padded_tensors() -> None:
    torch = pytest.importorskip("torch")
    ds = ss.IterableDataset(SOURCE, batch_size=50, pad=True)
    loader = torch.utils.data.DataLoader(ds, batch_size=None)
    masks = [batch["__mask__"] for batch in loader]
    assert all(mask.dtype == torch.bool and mask.shape == (50,) for mask in masks)
    assert sum(int(mask.sum()) for mask in masks) == SAMPLES


# -- stats ------------------------------------------------------------------------------------


def slowly(sample: dict[str, Any]) -> dict[str, Any]:
    import time

    time.sleep(0.01)
    return {"number": int(sample["cls"])}


def test_stats_say_what_bounds_the_run(client: ss.Client) -> None:
    client.etl.create("slowly", slowly, workers=1)
    with dataset(etl="slowly") as ds:
        assert ds.stats() == {}
        batches = iter(ds)
        stats: dict[str, Any] = {}

        def told() -> bool:
            nonlocal batches, stats
            if next(batches, None) is None:
                batches = iter(ds)
            stats = ds.stats()
            return bool(stats and stats["bound_by"] == "etl")

        wait_for(told)
        assert '"slowly"' in stats["advice"]
        assert stats["recent"]["wait_share"] > 0.1
        assert 0 < stats["wait_share"] <= 1
        assert set(stats["queue"]) == {"ready", "assembling", "window", "held"}
        assert sum(t["work"]["etl_s"] for t in stats["targets"].values()) > 0
        assert stats["samples_per_s"] > 0

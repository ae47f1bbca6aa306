"""Mixtures: what a caller may say, and what comes out of a real cluster."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shardstream as ss
from clusters import Cluster
from conftest import SHARDS
from fakes import FakeBinding
from shardstream import Source
from shardstream._dataset import IterableDataset
from shardstream._mixture import Mixture

A, B, C = "ss://train/shard-0.tar", "ss://train/shard-1.tar", "ss://train/shard-{2..5}.tar"
SIZES = (SHARDS[0], SHARDS[1], sum(SHARDS[2:]))


def keys(batches: Any) -> list[str]:
    return [key for batch in batches for key in batch["__key__"]]


def sources(batches: Any) -> list[int]:
    return [int(number) for batch in batches for number in batch["__source__"]]


def source_of(key: str) -> int:
    return 0 if int(key) < SIZES[0] else 1 if int(key) < SIZES[0] + SIZES[1] else 2


def mixture(parts: Any = ((A, 5), (B, 3), (C, 2)), **options: Any) -> Mixture:
    return Mixture(parts, **{"batch_size": 10, "timeout": 20, **options})


# -- what may be said ------------------------------------------------------------------------


def test_sources_are_kept_in_one_form() -> None:
    assert Source(["ss://a/x"], weight=1) == Source("ss://a/x", weight=np.float32(1))
    assert Source(["ss://a/x", "ss://a/y"]).source == ("ss://a/x", "ss://a/y")
    assert hash(Source(["ss://a/x", "ss://a/y"])) == hash(Source(("ss://a/x", "ss://a/y")))
    assert repr(Source("ss://a/x")) == "Source('ss://a/x')"
    full = Source("ss://a/x", repeat=2, shuffle=None, etl="f")
    assert repr(full) == "Source('ss://a/x', repeat=2.0, shuffle=None, etl='f')"
    assert eval(repr(full)) == full
    assert pickle.loads(pickle.dumps(full)) == full
    args = Source("ss://a/x", etl=["f", "g"], etl_args=[{"size": 3}, None])
    assert repr(args) == "Source('ss://a/x', etl='f,g', etl_args=[{'size': 3}, None])"
    assert eval(repr(args)) == args and hash(args) == hash(eval(repr(args)))
    assert args.document()["etl_args"] == [{"size": 3}, None]
    assert "etl" not in args.order()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"source": "http://x"}, ValueError, "ss://bucket"),
        ({"weight": -1}, ValueError, "weight must be 0 or more"),
        ({"weight": float("nan")}, ValueError, "weight"),
        ({"weight": float("inf")}, ValueError, "weight"),
        ({"weight": 10**400}, ValueError, "weight must be less than"),
        ({"weight": "1"}, TypeError, "weight must be a number"),
        ({"repeat": True}, TypeError, "repeat must be a number"),
        ({"samples": 1.5}, TypeError, "samples must be an integer"),
        ({"samples": -1}, ValueError, "samples must be 0 or more"),
        ({"weight": 1, "samples": 1}, ValueError, "weight and samples: give one"),
        ({"shuffle": "sideways"}, ValueError, "shuffle"),
        ({"etl": print}, TypeError, "deploy the function first"),
    ],
)
def test_bad_sources(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Source(**{"source": "ss://a/x", **arguments})


@pytest.mark.parametrize(
    ("parts", "options", "error", "text"),
    [
        ([], {}, ValueError, "1 to 1000 sources, not 0"),
        (A, {}, TypeError, "takes a list of sources"),
        (Source(A), {}, TypeError, "takes a list of sources"),
        ([3], {}, TypeError, "a Source, an address, or a pair"),
        ([(A, B)], {}, TypeError, "a Source, an address, or a pair"),
        ([(A, 1), B], {}, ValueError, "1 of 2 sources have a weight"),
        ([(A, 0), (B, 0)], {}, ValueError, "all weights are 0"),
        ([A], {"interleave": "blended"}, ValueError, "interleave must be one of"),
        ([A], {"samples": 0}, ValueError, "samples must be 1 or more"),
        ([Source(A, repeat=2)], {"samples": 9}, ValueError, "add up to the epoch's samples"),
        ([Source(A, shuffle=None)], {}, ValueError, 'take interleave="stratified"'),
        ([A], {"batch_size": 0}, ValueError, "batch_size"),
        ([A], {"seed": -1}, ValueError, "seed"),
    ],
)
def test_bad_mixtures(
    parts: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        mixture(parts, **options)


def test_repr_and_copies() -> None:
    ds = mixture({A: 0.7, B: 0.3}, samples=50, rank=0, world_size=2, drop_last=True, pad=True)
    assert repr(ds) == (
        f"Mixture([Source({A!r}, weight=0.7), Source({B!r}, weight=0.3)], batch_size=10, "
        "interleave='random', seed=0, samples=50, rank=0, world_size=2, drop_last=True, pad=True)"
    )
    ds.load_state_dict({**ds.state_dict(), "epoch": 2, "position": 40})
    for twin in (pickle.loads(pickle.dumps(ds)), copy.deepcopy(ds)):
        assert (twin.state_dict(), repr(twin)) == (ds.state_dict(), repr(ds))


def test_it_is_a_dataset_also_of_torch() -> None:
    assert issubclass(ss.Mixture, ss.IterableDataset)
    torch = pytest.importorskip("torch")
    ds = ss.Mixture([A], batch_size=1)
    assert isinstance(ds, torch.utils.data.IterableDataset)
    assert type(pickle.loads(pickle.dumps(ds))) is ss.Mixture


def test_local_manifests_are_sources(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("ss://a/x.tar\nss://a/y.tar\n")
    for parts in ([path], [(path, 1)], [Source(path)]):
        assert mixture(parts).sources == ("=ss://a/x.tar", "=ss://a/y.tar")


def test_it_takes_every_option_of_a_dataset() -> None:
    own, plain = (inspect.signature(kind).parameters for kind in (Mixture, IterableDataset))
    for name in plain.keys() - {"source", "shuffle", "etl", "etl_args", "samples"}:
        assert (own[name].default, own[name].annotation) == (
            plain[name].default, plain[name].annotation,
        ), name  # fmt: skip
        assert name in (Mixture.__doc__ or ""), name


def test_the_document_that_go_gets(fake: FakeBinding) -> None:
    parts = [Source(A, weight=1, etl="e"), Source([B, C], weight=2, shuffle=None)]
    next(iter(mixture(parts, interleave="stratified", samples=12, seed=7)))
    config = fake.opened[0]
    assert (config["sources"], config["shuffle"], config["etl"]) == ([], "", "")
    assert config["mixture"] == {
        "sources": [
            {"sources": [A], "weight": 1.0, "etl": "e"},
            {"sources": [B, C], "weight": 2.0, "shuffle": "none"},
        ],
        "interleave": "stratified",
        "samples": 12,
    }


def test_shuffles_are_left_to_the_cluster_unless_all_samples_are_permuted(
    fake: FakeBinding,
) -> None:
    fake.choice = {"shuffle": "window", "slices": 1, "window": 8}
    parts = [Source(A), Source(B, shuffle="shards")]
    ds = mixture(parts, interleave="stratified")
    next(iter(ds))
    state = json.loads(json.dumps(ds.state_dict()))
    asked = state["mixture"]["sources"]
    assert [(s["shuffle"], s.get("window")) for s in asked] == [("window", 8), ("shards", None)]
    fake.choice = {"shuffle": "global"}
    resumed = mixture(parts, interleave="stratified")
    resumed.load_state_dict(state)
    next(iter(resumed))
    assert fake.opened[-1]["mixture"]["sources"][0]["window"] == 8
    assert not {"slices", "window"} & fake.opened[-1].keys(), "they are the source's"
    assert resumed.state_dict()["mixture"] == state["mixture"]
    next(iter(mixture([A, B])))
    assert [s["shuffle"] for s in fake.opened[-1]["mixture"]["sources"]] == ["global"] * 2


def test_state_of_another_mixture_is_refused_with_what_changed() -> None:
    state = json.loads(json.dumps(mixture().state_dict()))
    mixture().load_state_dict(state)
    mixture(batch_size=99).load_state_dict(state)  # which changes no order
    for other, text in (
        (mixture([(A, 6), (B, 3), (C, 2)]), r"source 0 \(.*0.tar\): weight=5.0, now 6.0$"),
        (mixture([(A, 5), (C, 3), (C, 2)]), "source 1 .*sources=.*shard-1.*now.*2..5"),
        (mixture([(A, 5), (B, 3)]), "3 sources, now 2"),
        (mixture(seed=1), "seed=0, now 1"),
        (mixture(interleave="stratified"), "interleave='random', now 'stratified'"),
        (mixture(samples=70), "samples=None, now 70"),
        (mixture([A, B, C]), "weight=5.0, now None; .*weight=3.0, now None"),
    ):
        with pytest.raises(ValueError, match=text):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="saved by a Mixture, and this is an IterableDataset"):
        IterableDataset(A, batch_size=1).load_state_dict(state)
    with pytest.raises(ValueError, match="saved by an IterableDataset, and this is a Mixture"):
        mixture().load_state_dict(IterableDataset(A, batch_size=1).state_dict())
    for damage in (None, {}, {"interleave": "random"}, {"sources": [1, 2, 3]}):
        with pytest.raises(ValueError, match="not a state of a shardstream mixture"):
            mixture().load_state_dict({**state, "mixture": damage})


def test_batches_of_one_source_each_depend_on_their_size() -> None:
    state = mixture(interleave="per_source").state_dict()
    mixture(interleave="per_source").load_state_dict(state)
    with pytest.raises(ValueError, match="batch_size=10, now 20"):
        mixture(interleave="per_source", batch_size=20).load_state_dict(state)


# -- what comes out --------------------------------------------------------------------------

on_cluster = pytest.mark.usefixtures("at_cluster")


@on_cluster
def test_objects_are_mixed_too(client: ss.Client) -> None:
    bucket = client.bucket("mixed-objects").create()
    for number in range(8):
        bucket.put(f"{'cats' if number < 4 else 'dogs'}/{number}.txt", b"%d" % number)
    parts = ["ss://mixed-objects/cats/", "ss://mixed-objects/dogs/"]
    ds = mixture(parts, batch_size=4, objects=True, interleave="stratified", decode={"txt": "int"})
    assert "objects=True" in repr(ds)
    batches = list(pickle.loads(pickle.dumps(ds)))
    assert [sorted(sources([batch])) for batch in batches] == [[0, 0, 1, 1]] * 2
    assert sorted(int(value) for batch in batches for value in batch["txt"]) == list(range(8))
    assert [batch["__key__"] for batch in batches] == [ds.explain(0, n).keys for n in range(2)]
    with pytest.raises(TypeError, match="objects must be True or False"):
        mixture(parts, objects="yes")


@on_cluster
def test_proportions_are_exact_and_epochs_go_on() -> None:
    with mixture(samples=100) as ds:
        assert len(ds) == 10
        info = ds.info()
        assert info["samples"] == 100
        assert [part["draws"] for part in info["mixture"]["parts"]] == [50, 30, 20]
        assert [part["samples"] for part in info["mixture"]["parts"]] == list(SIZES)
        seen: Counter[str] = Counter()
        for epoch in range(8):
            batches = list(ds)
            assert Counter(sources(batches)) == {0: 50, 1: 30, 2: 20}
            assert sources(batches) == [source_of(key) for key in keys(batches)]
            seen.update(keys(batches))
            for number, size in enumerate(SIZES):
                counts = [n for key, n in seen.items() if source_of(key) == number]
                given = (50, 30, 20)[number] * (epoch + 1)
                assert max(counts) - min(counts) <= 1
                assert len(counts) == min(given, size)


@on_cluster
@pytest.mark.parametrize("interleave", ["random", "stratified", "per_source"])
def test_explain_agrees_with_what_comes(interleave: Any) -> None:
    ds = mixture(interleave=interleave, seed=3, rank=1, world_size=2, drop_last=True)
    ds.set_epoch(5)
    batches = list(ds)
    assert len(batches) > 5
    for number in (0, 4, len(batches) - 1):
        explained = ds.explain(5, number)
        assert [sample.key for sample in explained] == batches[number]["__key__"]
        assert [sample.source for sample in explained] == sources([batches[number]])
    assert IterableDataset(A, batch_size=1).explain(0, 0)[0].source is None


@on_cluster
def test_padded_rows_are_of_the_source_that_they_repeat() -> None:
    last = list(mixture(pad=True, samples=95))[-1]
    assert last["__mask__"].tolist() == [True] * 5 + [False] * 5
    assert [source_of(key) for key in last["__key__"]] == sources([last])


@on_cluster
def test_every_stratified_batch_has_its_shares() -> None:
    for world in (1, 2):
        for rank in range(world):
            ds = mixture(
                interleave="stratified", samples=200, rank=rank, world_size=world, drop_last=True
            )
            for batch in ds:
                counts = Counter(sources([batch]))
                assert all(abs(counts[n] - share) <= 1 for n, share in enumerate((5, 3, 2)))


@on_cluster
def test_sources_keep_their_order_where_they_ask_for_it() -> None:
    parts = [Source(A, shuffle=None), Source(B, repeat=2, shuffle=None), Source(C, samples=7)]
    batches = list(mixture(parts, interleave="stratified"))
    of = [[key for key in keys(batches) if source_of(key) == n] for n in range(3)]
    first = [f"{n:06}" for n in range(SIZES[0] + SIZES[1])]
    assert of[0] == first[: SIZES[0]]
    assert of[1] == first[SIZES[0] :] * 2
    assert len(of[2]) == 7


@on_cluster
def test_batches_of_one_source_each() -> None:
    for world in (1, 2):
        ds = mixture(
            interleave="per_source", batch_size=8, rank=0, world_size=world, drop_last=True
        )
        batches = list(ds)
        assert all(len(set(sources([batch]))) == 1 for batch in batches)
        assert set(sources(batches)) == {0, 1, 2}


@on_cluster
def test_repeats_and_transformations_by_source(client: ss.Client) -> None:
    client.etl.create("mixed-length", length)
    parts = [Source(A, repeat=3, etl="mixed-length"), B]
    values: dict[str, set[float]] = {}
    batches = list(mixture(parts))
    for batch in batches:
        for n, key in enumerate(batch["__key__"]):
            if source_of(key) == 0:
                assert int(batch["length"][n]) > 0
                assert batch.get("bin", [None] * 10)[n] is None
                values.setdefault(key, set()).add(float(batch["noise"][n]))
            else:
                assert batch["bin"][n] is not None
                assert batch.get("length", [None] * 10)[n] is None
    assert len(values) == SIZES[0]
    assert all(len(draws) == 3 for draws in values.values())


def length(sample: dict[str, Any]) -> dict[str, Any]:
    import random

    return {"length": len(sample["bin"]), "noise": random.random()}


RESUME = """
import json, sys
from shardstream import Source
from shardstream._mixture import Mixture

state, parts, interleave, rank, world = json.loads(sys.argv[1])
ds = Mixture([tuple(p) for p in parts], batch_size=10, interleave=interleave, samples=173,
             seed=3, rank=rank, world_size=world)
ds.load_state_dict(state)
print(json.dumps([[b["__key__"] for b in ds if "__mask__" not in b], ds.state_dict()]))
"""


@on_cluster
@pytest.mark.parametrize("interleave", ["random", "stratified"])
@pytest.mark.parametrize("world", [1, 3])
def test_resume_in_a_new_process_at_another_world_size(
    at_cluster: Cluster, interleave: Any, world: int
) -> None:
    parts = [(A, 5), (B, 3), (C, 2)]
    ds = mixture(parts, interleave=interleave, samples=173, seed=3)
    ds.set_epoch(4)
    whole = keys(ds)
    it = iter(ds)
    ds.set_epoch(4)
    it = iter(ds)
    head = keys(next(it) for _ in range(7))
    state = ds.state_dict()
    ranks = []
    for rank in range(world):
        argument = json.dumps([state, parts, interleave, rank, world])
        done = at_cluster.python(RESUME, argument)
        assert done.returncode == 0, done.stderr
        batches, after = json.loads(done.stdout)
        ranks.append(batches)
        assert (after["epoch"], after["position"]) == (5, 0)
    steps = max(len(batches) for batches in ranks)
    rest = [k for step in range(steps) for batches in ranks for k in (batches[step : step + 1])]
    assert head + [key for batch in rest for key in batch] == whole


@on_cluster
def test_dataloader_workers_share_a_mixture() -> None:
    torch = pytest.importorskip("torch")
    ds = ss.Mixture([(A, 1), (B, 1)], batch_size=10, samples=80, timeout=20)
    alone = list(ds)
    ds.set_epoch(0)
    loader = torch.utils.data.DataLoader(
        ds, batch_size=None, num_workers=2, multiprocessing_context="forkserver"
    )
    together = list(loader)
    assert keys(together) == keys(alone)
    assert together[0]["__source__"].dtype == torch.int64
    assert sources(together) == sources(alone)


@on_cluster
def test_what_the_cluster_refuses_arrives() -> None:
    with pytest.raises(ss.RequestError, match="comes to none of the epoch's 2 samples"):
        len(mixture([(A, 1), (B, 1000)], samples=2))
    with pytest.raises(ss.NotFoundError, match="nothing"):
        next(iter(mixture([A, "ss://train/nothing-*.tar"])))

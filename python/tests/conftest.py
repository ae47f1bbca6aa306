"""Fixtures: a fake loader for tests of the package alone, a real cluster for the others."""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Iterator

import pytest
from clusters import Cluster, shard
from fakes import FakeBinding, FakeClient
from shardstream import Client, _description, _native

SHARDS = (40, 37, 41, 1, 60, 48)
SAMPLES = sum(SHARDS)

if importlib.util.find_spec("torch") is not None:
    # Workers then begin with torch imported, which saves seconds for each.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["shardstream.torch"])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBinding]:
    """A loader in Python in place of the native one, with 20 samples."""
    binding = FakeBinding()
    monkeypatch.setattr(_native, "_binding", binding)
    monkeypatch.setattr(FakeClient, "binding", binding, raising=False)
    monkeypatch.setattr(_description, "Client", FakeClient)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    yield binding


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster whose bucket "train" holds 227 samples in 6 shards."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        with Client(cluster.endpoint) as client:
            bucket = client.bucket("train").create()
            first = 0
            for number, count in enumerate(SHARDS):
                bucket.put(f"shard-{number}.tar", shard(first, count))
                first += count
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    """A client of the cluster."""
    with Client(cluster.endpoint, timeout=20) as client:
        yield client


@pytest.fixture
def at_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, found by the environment as a user's program would."""
    monkeypatch.setenv("SHARDSTREAM_ENDPOINT", cluster.endpoint)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return cluster

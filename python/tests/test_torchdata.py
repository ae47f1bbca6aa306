"""torchdata's StatefulDataLoader: snapshots in mid-epoch go on at the very next batch."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import shardstream as ss
from clusters import Cluster

pytest.importorskip("torch", reason="torch is not installed")
stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's own call
SOURCE = "ss://train/shard-*.tar"
WORKERS = [0, 2]


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


def loader(workers: int, **options: Any) -> Any:
    """A new dataset in a new loader, as a process that starts anew makes them."""
    return stateful.StatefulDataLoader(
        ss.IterableDataset(SOURCE, batch_size=16, seed=6, timeout=30),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        **options,
    )


def keys(batches: Any) -> list[list[str]]:
    return [list(batch["__key__"]) for batch in batches]


@pytest.fixture(scope="module")
def epochs(cluster: Cluster) -> list[list[list[str]]]:
    """The batches of three epochs, by the dataset alone."""
    ds = ss.IterableDataset(SOURCE, batch_size=16, seed=6, endpoint=cluster.endpoint)
    return [keys(ds) for _ in range(3)]


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_resume_twice_and_into_the_next_epochs(
    epochs: list[list[list[str]]], workers: int, persistent: bool
) -> None:
    options = {"persistent_workers": True} if persistent else {}
    first = loader(workers, **options)
    passing = iter(first)
    got = [next(passing) for _ in range(4)]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    del passing, first

    second = loader(workers, **options)
    second.load_state_dict(state)
    passing = iter(second)
    got += [next(passing) for _ in range(5)]
    state = pickle.loads(pickle.dumps(second.state_dict()))
    del passing, second

    third = loader(workers, **options)
    for _ in range(2):  # from the same state, also where the loader has gone on meanwhile
        third.load_state_dict(state)
        assert keys(got) + keys(third) == epochs[0]
        assert keys(third) == epochs[1]
        assert keys(third) == epochs[2]


@pytest.mark.parametrize("workers", WORKERS)
def test_a_state_from_the_end_of_an_epoch(epochs: list[list[list[str]]], workers: int) -> None:
    first = loader(workers)
    assert keys(first) == epochs[0]
    state = first.state_dict()
    second = loader(workers)
    second.load_state_dict(state)
    assert keys(second) == epochs[1]
    assert keys(second) == epochs[2]


@pytest.mark.parametrize("workers", WORKERS)
def test_snapshots_of_every_batch_are_small(workers: int) -> None:
    through = loader(workers, snapshot_every_n_steps=1)
    for _ in through:
        assert len(pickle.dumps(through.state_dict())) < 3000  # torchdata's own part included


@pytest.mark.parametrize("workers", WORKERS)
def test_set_epoch_reaches_it(epochs: list[list[list[str]]], workers: int) -> None:
    through = loader(workers, persistent_workers=bool(workers))
    through.dataset.set_epoch(2)
    assert keys(through) == epochs[2]
    through.dataset.set_epoch(1)
    assert keys(through) == epochs[1]

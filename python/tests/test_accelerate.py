"""Accelerate: batches are shared out once, by the cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import shardstream as ss
from clusters import Cluster
from launch import EXAMPLES, torchrun
from test_torchrun import pixels

torch = pytest.importorskip("torch", reason="torch is not installed")
accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
from accelerate.data_loader import IterableDatasetShard  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

sys.path.insert(0, str(EXAMPLES))
from train_accelerate import loader_of  # noqa: E402

SOURCE = "ss://train/shard-*.tar"


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def _etl(cluster: Cluster) -> None:
    with ss.Client(cluster.endpoint) as client:
        client.etl.create("pixels", pixels)


def dataset(**options: Any) -> ss.IterableDataset:
    return ss.IterableDataset(SOURCE, **{"batch_size": 16, "seed": 1, "timeout": 30, **options})


def keys(batches: Any) -> list[list[str]]:
    return [list(batch["__key__"]) for batch in batches]


def accelerator(**options: Any) -> Any:
    config = accelerate.DataLoaderConfiguration(**options)
    return accelerate.Accelerator(cpu=True, dataloader_config=config)


def test_the_recipe_on_one_process() -> None:
    ds = dataset()
    want = [keys(ds) for _ in range(2)]
    loader = loader_of(dataset(), accelerator())
    assert [keys(loader) for _ in range(2)] == want
    assert len(loader) == 15
    loader.set_epoch(0)
    for batch in loader:
        assert batch["bin"][0] is not None  # views of bytes come through
    assert loader.end_of_dataloader


def test_resume_by_the_count_of_what_was_used() -> None:
    want = keys(dataset())
    ds = dataset()
    passing = iter(loader_of(ds, accelerator()))
    got = keys(next(passing) for _ in range(4))
    state = ds.state_dict(consumed=4)  # Accelerate is one batch ahead
    again = dataset()
    again.load_state_dict(state)
    loader = loader_of(again, accelerator())
    loader.set_epoch(state["epoch"])
    assert got + keys(loader) == want


def test_a_resume_that_forgets_the_epoch_is_warned_of() -> None:
    ds = dataset()
    ds.load_state_dict({**ds.state_dict(), "epoch": 3, "position": 32})
    with pytest.warns(UserWarning, match="gives up the position"):
        next(iter(loader_of(ds, accelerator())))  # Accelerate calls set_epoch(0)


@pytest.mark.parametrize("options", [{}, {"dispatch_batches": True}])
def test_reading_in_process_0_alone_is_refused(options: dict[str, Any]) -> None:
    loader = accelerator(**options).prepare(DataLoader(dataset(), batch_size=None))
    with pytest.raises(RuntimeError, match="DataLoaderDispatcher would read it in process 0"):
        next(iter(loader))


@pytest.mark.parametrize("batch_size", [None, 1])
def test_sharing_out_twice_is_refused(batch_size: int | None) -> None:
    loader = accelerate.data_loader.prepare_data_loader(
        DataLoader(dataset(), batch_size=batch_size),
        num_processes=2,
        process_index=0,
        dispatch_batches=False,
    )
    with pytest.raises(RuntimeError, match=r"num_processes=1, process_index=0"):
        next(iter(loader))


def test_sharing_out_twice_is_refused_in_workers_and_without_set_epoch() -> None:
    twice = IterableDatasetShard(dataset(), batch_size=1, num_processes=2, process_index=1)
    with pytest.raises(RuntimeError, match="already"):
        next(iter(twice))
    workers = DataLoader(
        twice, batch_size=None, num_workers=1, multiprocessing_context="forkserver"
    )
    with pytest.raises(RuntimeError, match="already"):
        next(iter(workers))


def test_two_processes_resume(cluster: Cluster, tmp_path: Path) -> None:
    ds = dataset()
    want = [key for _ in range(2) for batch in ds for key in batch["__key__"]]
    for number, options in enumerate((["--max-steps", "5"], [])):
        journal = tmp_path / f"journal-{number}"
        journal.mkdir()
        torchrun(
            cluster, 2, EXAMPLES / "train_accelerate.py", SOURCE, "--etl", "pixels",
            "--batch-size", "8", "--epochs", "2", "--checkpoint", tmp_path / "run.pt",
            "--journal", journal, *options,
        )  # fmt: skip
    ranks = []
    for rank in range(2):
        text = "".join((tmp_path / f"journal-{n}/rank-{rank}.txt").read_text() for n in range(2))
        ranks.append([line.split()[1:] for line in text.splitlines()])
    assert [key for step in zip(*ranks, strict=True) for part in step for key in part] == want

"""Several processes by torchrun with gloo: the example of docs/guides/frameworks.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import shardstream as ss
from clusters import Cluster
from launch import EXAMPLES, torchrun

pytest.importorskip("torch", reason="torch is not installed")

SOURCE = "ss://train/shard-*.tar"
GLOBAL_BATCH = 24


def pixels(sample: dict[str, Any]) -> dict[str, Any]:
    """A picture of 64 float32 and its class."""
    import numpy as np

    number = int(sample["cls"])
    return {"image": np.full((8, 8), number / 256, np.float32), "cls": number % 10}


@pytest.fixture(scope="module", autouse=True)
def _etl(cluster: Cluster) -> None:
    with ss.Client(cluster.endpoint) as client:
        client.etl.create("pixels", pixels)


@pytest.fixture
def want(at_cluster: Cluster) -> list[list[str]]:
    """The samples of two epochs, in their order, as one process sees them."""
    ds = ss.IterableDataset(SOURCE, batch_size=GLOBAL_BATCH, seed=1)
    return [[key for batch in ds for key in batch["__key__"]] for _ in range(2)]


class Run:
    """A training run that goes on from one launch to the next."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.steps: list[tuple[int, list[str]]] = []  # epoch, samples of all ranks in order

    def launch(self, processes: int, *options: str) -> str:
        journal = self.folder / f"journal-{len(self.steps)}"
        journal.mkdir()
        output = torchrun(
            self.cluster, processes, EXAMPLES / "train_ddp.py", SOURCE, "--etl", "pixels",
            "--checkpoint", self.folder / "run.pt", "--batch-size", str(GLOBAL_BATCH),
            "--epochs", "2", "--journal", journal, *options,
        )  # fmt: skip
        ranks = [
            [line.split() for line in (journal / f"rank-{rank}.txt").read_text().splitlines()]
            for rank in range(processes)
        ]
        for step in zip(*ranks, strict=True):  # equally many steps on every rank
            assert len({epoch for epoch, *_ in step}) == 1
            self.steps.append((int(step[0][0]), [key for _, *keys in step for key in keys]))
        return output

    def samples(self, epoch: int) -> list[str]:
        return [key for number, keys in self.steps if number == epoch for key in keys]


def test_a_run_goes_on_with_other_numbers_of_processes(
    cluster: Cluster, want: list[list[str]], tmp_path: Path
) -> None:
    run = Run(cluster, tmp_path)
    for processes in (2, 4):
        run.launch(processes, "--max-steps", "4")
    assert len(run.steps) == 8
    output = run.launch(2)
    assert "epoch 1: 12 steps on 2 processes" in output  # the last 2 of epoch 0, then 10
    assert [run.samples(epoch) for epoch in (0, 1)] == want  # each once, in the one order

"""Lightning: the example of docs/guides/frameworks.md, on one process and on two."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import shardstream as ss
from clusters import Cluster
from launch import EXAMPLES, torchrun
from test_torchrun import pixels

pytest.importorskip("torch", reason="torch is not installed")
L = pytest.importorskip("pytorch_lightning", reason="lightning is not installed")
from pytorch_lightning.callbacks import ModelCheckpoint  # noqa: E402

sys.path.insert(0, str(EXAMPLES))
from train_lightning import Classifier, Digits  # noqa: E402

SOURCE = "ss://train/shard-*.tar"
#: Lightning's own: of versions of torch, of few workers, and of datasets with a length.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def _etl(cluster: Cluster) -> None:
    with ss.Client(cluster.endpoint) as client:
        client.etl.create("pixels", pixels)


@pytest.fixture
def want() -> list[list[list[str]]]:
    """The batches of three epochs."""
    ds = ss.IterableDataset(SOURCE, batch_size=16, seed=1)
    return [[list(batch["__key__"]) for batch in ds] for _ in range(3)]


class Run:
    """A training run with its checkpoints in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fit(self, epochs: int, steps: int = -1, **saving: Any) -> list[tuple[int, list[str]]]:
        """Train on from the last checkpoint; returns the steps as (epoch, samples)."""
        journal = self.folder / "rank-0.txt"
        journal.unlink(missing_ok=True)
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=epochs, max_steps=steps, logger=False,
            enable_progress_bar=False, enable_model_summary=False,
            callbacks=[ModelCheckpoint(self.folder, save_last=True, **saving)],
        )  # fmt: skip
        last = self.folder / "last.ckpt"
        trainer.fit(
            Classifier(self.folder),
            datamodule=Digits(SOURCE, "pixels"),
            ckpt_path=last if last.exists() else None,
        )
        lines = [line.split() for line in journal.read_text().splitlines()]
        return [(int(epoch), keys) for epoch, *keys in lines]


def numbered(epochs: list[list[list[str]]], first: int = 0) -> list[tuple[int, list[str]]]:
    return [(first + i, keys) for i, batches in enumerate(epochs) for keys in batches]


def test_epochs_have_orders_of_their_own(want: list[list[list[str]]], tmp_path: Path) -> None:
    assert Run(tmp_path).fit(epochs=3) == numbered(want)


@pytest.mark.parametrize("steps", [1, 5, 14, 15, 16, 30])
def test_resume_in_mid_epoch(want: list[list[list[str]]], tmp_path: Path, steps: int) -> None:
    run = Run(tmp_path)
    got = run.fit(epochs=3, steps=steps, every_n_train_steps=steps)
    assert got + run.fit(epochs=3) == numbered(want)


def test_resume_at_the_end_of_an_epoch(want: list[list[list[str]]], tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.fit(epochs=1, every_n_epochs=1) == numbered(want[:1])
    assert run.fit(epochs=3) == numbered(want[1:], first=1)


def test_two_processes_resume(
    cluster: Cluster, want: list[list[list[str]]], tmp_path: Path
) -> None:
    for number, steps in enumerate(("6", "-1")):
        (tmp_path / f"journal-{number}").mkdir()
        torchrun(
            cluster, 2, EXAMPLES / "train_lightning.py", SOURCE, "--etl", "pixels",
            "--devices", "2", "--batch-size", "8", "--epochs", "2", "--max-steps", steps,
            "--checkpoints", tmp_path, "--save-every", "6",
            "--journal", tmp_path / f"journal-{number}",
        )  # fmt: skip
    steps_of_ranks = []
    for rank in range(2):
        text = "".join((tmp_path / f"journal-{n}/rank-{rank}.txt").read_text() for n in range(2))
        steps_of_ranks.append([line.split() for line in text.splitlines()])
    both = [(int(a[0]), a[1:] + b[1:]) for a, b in zip(*steps_of_ranks, strict=True)]
    assert both == numbered(want[:2])

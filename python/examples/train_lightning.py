"""Train with Lightning, on one process or several, and go on from its checkpoints.

    python python/examples/train_lightning.py 'ss://digits/train-*.tar' --etl decode --devices 2

The data module keeps the dataset's state in Lightning's checkpoints, so that a run that goes on in
mid-epoch sees the rest of that epoch, each sample once, also on another number of processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytorch_lightning as L  # `import lightning as L` is the same
import shardstream as ss
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader


class Digits(L.LightningDataModule):  # type: ignore[misc, unused-ignore]
    """Batches from the cluster; each process gets its own part of every step."""

    def __init__(self, source: str, etl: str, batch_size: int = 16) -> None:
        """Describe the data; nothing is asked of the cluster yet."""
        super().__init__()
        self.training = ss.IterableDataset(source, batch_size=batch_size, etl=etl, seed=1)

    def train_dataloader(self) -> DataLoader[Any]:
        """Each pass over it is the next epoch."""
        return DataLoader(self.training, batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        """What Lightning puts into a checkpoint for this module."""
        state = self.training.state_dict()
        assert self.trainer is not None
        if self.trainer.is_last_batch and state["position"]:
            # Lightning goes on with the next epoch, and not with the nothing that is left of this.
            state.update(epoch=state["epoch"] + 1, position=0)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stands."""
        self.training.load_state_dict(state_dict)


class Classifier(L.LightningModule):  # type: ignore[misc, unused-ignore]
    """Logistic regression."""

    def __init__(self, journal: Path | None = None) -> None:
        """Start from random weights."""
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.journal = journal

    def training_step(self, batch: dict[str, Any], step: int) -> torch.Tensor:
        """The mean loss of a batch."""
        losses = nn.functional.cross_entropy(
            self.net(batch["image"]), batch["cls"], reduction="none"
        )
        if self.journal:
            self.write_down(batch["__key__"])
        mask = batch.get("__mask__")
        return losses.mean() if mask is None else (losses * mask).mean()

    def write_down(self, keys: list[str]) -> None:
        """Append a step's samples to the rank's journal."""
        assert self.journal is not None
        with (self.journal / f"rank-{self.global_rank}.txt").open("a") as journal:
            journal.write(" ".join([str(self.current_epoch), *keys]) + "\n")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main() -> None:
    """Train, from the checkpoint if there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source")
    parser.add_argument("--etl", required=True, help="returns image, 64 float32, and cls")
    parser.add_argument("--checkpoints", type=Path, required=True, help="a folder")
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16, help="of each process")
    parser.add_argument("--max-steps", type=int, default=-1, help="of the whole run")
    parser.add_argument("--journal", type=Path, help="folder to write each step's samples to")
    arguments = parser.parse_args()
    saving = ModelCheckpoint(
        arguments.checkpoints, "{step}", every_n_train_steps=arguments.save_every, save_last=True
    )
    trainer = L.Trainer(
        accelerator="auto" if torch.cuda.is_available() else "cpu",
        devices=arguments.devices,
        strategy="ddp" if arguments.devices > 1 else "auto",
        max_epochs=arguments.epochs,
        max_steps=arguments.max_steps,
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = Digits(arguments.source, arguments.etl, arguments.batch_size)
    last = arguments.checkpoints / "last.ckpt"
    model = Classifier(arguments.journal)
    trainer.fit(model, datamodule=data, ckpt_path=last if last.exists() else None)


if __name__ == "__main__":
    main()

"""Train on several processes with torchrun; stop anywhere, and go on with any number of them.

    torchrun --nproc-per-node=2 python/examples/train_ddp.py 'ss://digits/train-*.tar' \
        --etl decode --checkpoint run.pt --epochs 3

Each process finds its part of the epoch by itself. All take equally many steps, so none is left
waiting in a collective at the end. The checkpoint holds the dataset's position in samples, which is
the same on all ranks and means the same on any number of them.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import shardstream as ss
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader


def loss_of(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The mean loss of a batch; a sample that only fills up an epoch's last step counts nothing."""
    losses = nn.functional.cross_entropy(model(batch["image"]), batch["cls"], reduction="none")
    mask = batch.get("__mask__")
    return losses.mean() if mask is None else (losses * mask).mean()


def save(path: Path, model: nn.Module, optimizer: Any, dataset: ss.IterableDataset) -> None:
    """Write a checkpoint, whole or not at all."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "data": dataset.state_dict(),
    }
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def train(arguments: argparse.Namespace) -> None:
    """Train up to the last epoch, or for as many steps as were given."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    dataset = ss.IterableDataset(
        arguments.source,
        batch_size=arguments.batch_size // world,  # a step is the same samples on any world
        etl=arguments.etl,
        seed=1,
    )
    if arguments.checkpoint.exists():
        state = torch.load(arguments.checkpoint, weights_only=True)
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        dataset.load_state_dict(state["data"])

    step = 0
    while (epoch := dataset.state_dict()["epoch"]) < arguments.epochs:
        dataset.set_epoch(epoch)  # goes on where a loaded state of this epoch stands
        for batch in DataLoader(dataset, batch_size=None):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if arguments.journal:
                write_down(arguments.journal / f"rank-{rank}.txt", epoch, batch)
            last = step == arguments.max_steps
            if rank == 0 and (last or step % arguments.save_every == 0):
                save(arguments.checkpoint, net, optimizer, dataset)
            if last:
                return
        if rank == 0:
            save(arguments.checkpoint, net, optimizer, dataset)
            print(f"epoch {epoch}: {step} steps on {world} processes, loss {loss.item():.3f}")


def write_down(path: Path, epoch: int, batch: dict[str, Any]) -> None:
    """Append a step's samples, without padding, to a rank's journal."""
    mask = batch.get("__mask__", [True] * len(batch["__key__"]))
    keys = [key for key, real in zip(batch["__key__"], mask, strict=True) if real]
    with path.open("a") as journal:
        journal.write(" ".join([str(epoch), *keys]) + "\n")


def main() -> None:
    """Join the group that torchrun made, and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source")
    parser.add_argument("--etl", required=True, help="returns image, 64 float32, and cls")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64, help="of all processes together")
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--max-steps", type=int, help="stop after as many, with a checkpoint")
    parser.add_argument("--journal", type=Path, help="folder to write each step's samples to")
    arguments = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        train(arguments)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

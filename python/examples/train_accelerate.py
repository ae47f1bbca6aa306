"""Train with Accelerate, on one process or several.

    torchrun --nproc-per-node=2 python/examples/train_accelerate.py 'ss://digits/train-*.tar' \
        --etl decode --checkpoint run.pt

Each process gets its own part of every step from the cluster, so Accelerate must not share the
batches out again: the loader is prepared as that of one process. What remains is what one wants of
it: batches on the right device, set_epoch, and gradient accumulation that ends with the epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import shardstream as ss
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.utils.data import DataLoader


def loader_of(dataset: ss.IterableDataset, accelerator: Accelerator) -> Any:
    """A loader that Accelerate drives, over batches that are this process's already."""
    return prepare_data_loader(
        DataLoader(dataset, batch_size=None),
        accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        dispatch_batches=False,
    )


def train(arguments: argparse.Namespace, accelerator: Accelerator) -> None:
    """Train up to the last epoch, or for as many steps as were given."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.01))
    dataset = ss.IterableDataset(
        arguments.source, batch_size=arguments.batch_size, etl=arguments.etl, seed=1
    )
    if arguments.checkpoint.exists():
        state = torch.load(arguments.checkpoint, weights_only=True)
        net.load_state_dict(state["model"])
        dataset.load_state_dict(state["data"])
    loader = loader_of(dataset, accelerator)

    steps = 0
    for epoch in range(dataset.state_dict()["epoch"], arguments.epochs):
        loader.set_epoch(epoch)  # goes on where a loaded state of this epoch stands
        for consumed, batch in enumerate(loader, 1):
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(batch["image"]), batch["cls"])
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            steps += 1
            if arguments.journal:
                path = arguments.journal / f"rank-{accelerator.process_index}.txt"
                with path.open("a") as journal:
                    journal.write(" ".join([str(epoch), *batch["__key__"]]) + "\n")
            if steps == arguments.max_steps:
                # The loader is one batch ahead of the loop: count what the loop has used.
                state = {"model": net.state_dict(), "data": dataset.state_dict(consumed)}
                accelerator.save(state, arguments.checkpoint)
                return


def main() -> None:
    """Train, from the checkpoint if there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source")
    parser.add_argument("--etl", required=True, help="returns image, 64 float32, and cls")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16, help="of each process")
    parser.add_argument("--max-steps", type=int, help="stop after as many, with a checkpoint")
    parser.add_argument("--journal", type=Path, help="folder to write each step's samples to")
    arguments = parser.parse_args()
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=2)
    train(arguments, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main()

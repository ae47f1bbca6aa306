"""Train a small classifier from a local cluster, start to end: `make demo`.

Real data (scikit-learn's 1,797 handwritten digits) become WebDataset tar shards of PNG images and
labels; a cluster of one gateway and three targets with two disks each stores them, decodes and
augments each sample beside the disk that holds it, shuffles every epoch over the whole set, and
streams finished batches into a stock PyTorch DataLoader.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import numpy as np
import shardstream as ss
import torch
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

TRAIN_SHARDS, TEST_SHARDS = 8, 2


def augment(sample: dict[str, Any]) -> dict[str, Any]:
    """Decode a digit and shift it by up to a pixel. Runs on the targets, seeded per sample."""
    import io
    import random

    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(sample["png"])), dtype=np.float32) / 255
    shift = (random.randint(-1, 1), random.randint(-1, 1))
    return {"image": np.roll(pixels, shift, axis=(0, 1))[None], "cls": int(sample["cls"])}


def decode(sample: dict[str, Any]) -> dict[str, Any]:
    """Decode a digit as it is, for the held-out ones. Runs on the targets."""
    import io

    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(sample["png"])), dtype=np.float32) / 255
    return {"image": pixels[None], "cls": int(sample["cls"])}


def write_shards(folder: Path) -> None:
    """Write the digits as tar shards: KEY.png and KEY.cls, one after the other."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    shards = np.array_split(order, TRAIN_SHARDS + TEST_SHARDS)
    for number, members in enumerate(shards):
        held_out = number >= TRAIN_SHARDS
        name = f"test-{number - TRAIN_SHARDS:02}.tar" if held_out else f"train-{number:02}.tar"
        with tarfile.open(folder / name, "w") as tar:
            for i in members:
                png = io.BytesIO()
                Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8)).save(png, "PNG")
                for field, data in (("png", png.getvalue()), ("cls", b"%d" % digits.target[i])):
                    member = tarfile.TarInfo(f"{i:06}.{field}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[ss.Client]:
    """Bring a cluster up in ``folder``, and down again whatever happens."""
    binary = Path(sysconfig.get_path("scripts"), "shardstream")
    with socket.socket() as probe:  # a free port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    size = ["--gateways", "1", "--targets", "3", "--disks", "2", "--port", str(port)]
    try:
        began = time.perf_counter()
        subprocess.run(
            [binary, "up", "--dir", folder, *size, "--detach"], check=True, stdout=DEVNULL
        )
        print(f"cluster of 1 gateway and 3 targets x 2 disks: {time.perf_counter() - began:.1f} s")
        os.environ["SHARDSTREAM_ENDPOINT"] = f"http://127.0.0.1:{port}"
        yield ss.Client()
    finally:
        subprocess.run([binary, "down", "--dir", folder], check=True, stdout=DEVNULL)


def classifier() -> nn.Module:
    """A convolutional network of some 20,000 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def keys(dataset: ss.IterableDataset, epoch: int) -> list[str]:
    """The keys of an epoch, in its order."""
    dataset.set_epoch(epoch)
    return [key for batch in dataset for key in batch["__key__"]]


def accuracy(model: nn.Module, dataset: ss.IterableDataset) -> float:
    """The share of the dataset's samples that the model classifies correctly."""
    right = total = 0
    with torch.no_grad():
        for batch in DataLoader(dataset, batch_size=None):
            right += int((model(batch["image"]).argmax(1) == batch["cls"]).sum())
            total += len(batch["cls"])
    return right / total


def train(epochs: int) -> float:
    """Train and report each epoch; returns the last held-out accuracy."""
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    training = ss.IterableDataset(
        "ss://digits/train-*.tar", batch_size=64, shuffle="global", seed=0, etl="augment"
    )
    held_out = ss.IterableDataset(
        "ss://digits/test-*.tar", batch_size=256, shuffle=None, etl="decode"
    )
    score = 0.0
    for epoch in range(1, epochs + 1):
        training.set_epoch(epoch)
        seen, loss_sum, waited = 0, 0.0, 0.0
        began = asked = time.perf_counter()
        bar = tqdm(total=len(training), desc=f"epoch {epoch}", leave=False, disable=None)
        for batch in DataLoader(training, batch_size=None, num_workers=0):
            waited += time.perf_counter() - asked
            loss = nn.functional.cross_entropy(model(batch["image"]), batch["cls"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(batch["cls"])
            loss_sum += loss.item() * len(batch["cls"])
            bar.update()
            asked = time.perf_counter()
        took = time.perf_counter() - began
        bar.close()
        score = accuracy(model, held_out)
        print(
            f"epoch {epoch}: loss {loss_sum / seen:.3f}, held-out accuracy {score:.1%}, "
            f"{seen / took:,.0f} samples/s, waited for data {waited / took:.0%} of the time"
        )
    return score


def show_order() -> None:
    """Show that each epoch has an order of its own, and that a seed repeats it."""
    source = "ss://digits/train-*.tar"
    with ss.IterableDataset(source, batch_size=64, seed=0) as dataset:
        first, second = keys(dataset, 1), keys(dataset, 2)
    with ss.IterableDataset(source, batch_size=64, seed=0) as dataset:
        again = keys(dataset, 1)
    if first == second or sorted(first) != sorted(second) or first != again:
        sys.exit("the order of the epochs is not what it should be")
    print(
        f"order: epoch 1 begins {' '.join(first[:3])}, epoch 2 {' '.join(second[:3])}: different; "
        f"epoch 1 again from seed 0: the same {len(again):,} samples in the same order"
    )


def main() -> None:
    """Run the demo; exits with 1 if the classifier did not learn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr, unused-ignore]
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the network is tiny: more threads only wait for each other
    with tempfile.TemporaryDirectory(prefix="shardstream-demo-") as scratch:
        shards = Path(scratch, "shards")
        shards.mkdir()
        write_shards(shards)
        with cluster(Path(scratch, "cluster")) as client:
            bucket = client.bucket("digits")
            bucket.create()
            for path in tqdm(sorted(shards.iterdir()), desc="put", leave=False, disable=None):
                bucket.put(path.name, path)
            samples = sum(shard.samples for shard in bucket.list())
            print(f"put {samples:,} digits in {TRAIN_SHARDS} + {TEST_SHARDS} tar shards")
            for function in (augment, decode):
                client.etl.create(
                    function.__name__, function=function, requirements=["pillow", "numpy"]
                )
            score = train(epochs)
            show_order()
    if score <= 0.9:
        sys.exit(f"held-out accuracy {score:.1%}: expected more than 90 %")


if __name__ == "__main__":
    main()

"""One trainer of one pass over augmented pictures, in a process of its own, with its workers.

Every way ends in uint8[N, 224, 224, 3]: JPEG decoded, a random resized crop, a flip. It says
"ready" when its packages are imported, waits for a line, reads its epochs and prints a line of
JSON. CPU is that of this process and of all that it started, its DataLoader workers above all.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import procfs
from passes import Epoch, rss_peak_mb, wait_for_start
from shards import Manifest

SIZE = 224
WORKERS = 2
BUCKET = "bench-photos"
ETL = "augment"

Batches = Iterator[tuple[list[str], Any]]  # keys, and pictures uint8[N, 224, 224, 3]


def chain() -> Any:
    """What is deployed, and what runs alone."""
    from shardstream import transforms as T

    return T.Compose([T.Decode("jpg"), T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip()])


class Shardstream:
    """Our stream with an ETL of level batch, which the targets run."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        import shardstream as ss

        self.version = ss.__version__
        self._class = ss.IterableDataset
        self._batch = manifest.spec.batch
        self._dataset: Any = None

    def epoch(self) -> Batches:
        if self._dataset is None:
            self._dataset = self._class(
                f"ss://{BUCKET}/train-*.tar",
                batch_size=self._batch,
                shuffle="global",
                seed=7,
                etl=ETL,
            )
        for batch in self._dataset:
            yield list(batch["__key__"]), batch["image"]


class WebDataset:
    """webdataset on local files with DataLoader workers, as its documentation has it."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        import torch
        import webdataset as wds

        self._crop, told = crop_and_flip()
        self.version = f"{wds.__version__}, {told}"
        self._collate = lambda rows: (
            [key for key, _ in rows], torch.from_numpy(np.stack([picture for _, picture in rows]))
        )  # fmt: skip
        self._package = wds
        self._urls = [str(folder / "tar" / name) for name in manifest.files]
        self._batch = manifest.spec.batch
        self._loader: Any = None

    def _augment(self, sample: dict[str, Any]) -> tuple[str, Any]:
        from PIL import Image

        picture = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
        return sample["__key__"], np.asarray(self._crop(picture))

    def epoch(self) -> Batches:
        wds = self._package
        if self._loader is None:
            dataset = wds.WebDataset(self._urls, shardshuffle=len(self._urls))
            dataset = dataset.shuffle(1000).map(self._augment)
            dataset = dataset.batched(self._batch, collation_fn=self._collate)
            self._loader = wds.WebLoader(
                dataset, batch_size=None, num_workers=WORKERS, persistent_workers=True
            )
        yield from self._loader


def crop_and_flip() -> tuple[Callable[[Any], Any], str]:
    """torchvision's transforms where it is installed, else the same calls of Pillow."""
    try:
        from torchvision import transforms as tv
    except ImportError:
        return pillow_crop_and_flip, "the same calls of Pillow"
    steps = [tv.RandomResizedCrop(SIZE, antialias=True), tv.RandomHorizontalFlip()]
    return tv.Compose(steps), "torchvision"


def pillow_crop_and_flip(picture: Any) -> Any:
    import random

    from shardstream import transforms as T

    draws = T.Draws(random.getrandbits(64))
    width, height = picture.size
    left, top, w, h = T.RandomResizedCrop(SIZE).part(width, height, draws)
    picture = picture.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), 2)
    return picture.transpose(0) if random.random() < 0.5 else picture


class Alone:
    """The function by itself: as many processes as an ETL has, and nothing travels."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        import PIL

        self.version = f"Pillow {PIL.__version__}"
        self._batches = list(batches_of(folder, manifest))
        chain()(self._batches[0][:1])  # imports what the processes then have

    def _run(self, worker: int, turn: int, results: Any) -> None:
        compose = chain()
        for batch in self._batches[worker::WORKERS]:
            for number, sample in enumerate(batch):
                sample["__seed__"] = turn << 32 | worker << 16 | number
            made = compose(batch)
            results.put((made["__key__"], made["image"].shape))

    def epoch(self) -> Batches:
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        turn = int(time.monotonic())
        workers = [
            context.Process(target=self._run, args=(i, turn, results)) for i in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        for _ in self._batches:
            keys, shape = results.get(timeout=120)
            yield keys, np.broadcast_to(np.uint8(0), shape)
        for worker in workers:
            worker.join()


def batches_of(folder: Path, manifest: Manifest) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for name in manifest.files:
        with tarfile.open(folder / "tar" / name) as tar:
            for member in tar:
                key, _, field = member.name.partition(".")
                opened = tar.extractfile(member)
                assert opened is not None
                if field != "jpg":
                    continue
                batch.append({"__key__": key, "jpg": opened.read()})
                if len(batch) == manifest.spec.batch:
                    yield batch
                    batch = []
    if batch:
        yield batch


READERS: dict[str, Callable[[Path, Manifest], Any]] = {
    "shardstream": Shardstream,
    "webdataset": WebDataset,
    "alone": Alone,
}


def measure(reader: Any, samples: int) -> Epoch:
    """Drains an epoch, which must have every sample once, as pictures of the one size."""
    epoch = Epoch(start=time.monotonic())
    cpu = procfs.cpu_seconds(procfs.tree(os.getpid()))
    seen: list[str] = []
    for keys, pictures in reader.epoch():
        epoch.last = time.monotonic()
        epoch.first = epoch.first or epoch.last
        if tuple(pictures.shape) != (len(keys), SIZE, SIZE, 3) or "uint8" not in str(
            pictures.dtype
        ):
            raise SystemExit(f"a batch of {pictures.dtype}{list(pictures.shape)}")
        epoch.bytes += len(keys) * SIZE * SIZE * 3
        seen += keys
    epoch.end = time.monotonic()
    epoch.cpu_s = procfs.cpu_seconds(procfs.tree(os.getpid())) - cpu
    epoch.samples = len(seen)
    if len(set(seen)) != samples or len(seen) != samples:
        raise SystemExit(
            f"an epoch of {len(seen)} samples, {len(set(seen))} different, not {samples}"
        )
    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=READERS)
    parser.add_argument("folder", type=Path, help="of the data set, with tar/ in it")
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    manifest = Manifest.load(args.folder / "tar" / "manifest.json")
    reader = READERS[args.case](args.folder, manifest)
    wait_for_start()
    epochs = [vars(measure(reader, manifest.samples)) for _ in range(args.epochs)]
    figures = {"version": reader.version, "epochs": epochs, "rss_peak_mb": rss_peak_mb()}
    print(json.dumps(figures), flush=True)
    os._exit(0)  # workers that are kept between epochs are not waited for


if __name__ == "__main__":
    main()

"""One pass of one case, in a process of its own: prints a line of JSON.

Time and CPU count from after the imports: CPU is that of this process and of the children that it
reaped. The first epoch includes all opening; the second shows the same process once it is warm.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH = 256
BUFFER = 28 << 20  # a batch of 256 samples of 110 kB

Batches = Iterable[list[Any]]  # of contents, by batch: one bytes-like object a member


@dataclass
class Epoch:
    wall_s: float = 0
    cpu_s: float = 0
    first_batch_s: float = 0
    samples: int = 0
    bytes: int = 0
    crc_sum: int = 0


def cpu_seconds() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + reaped.ru_utime + reaped.ru_stime


def rss_peak_mb() -> float:
    """Of this program: ru_maxrss would count what its parent had before the exec, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def measure(batches: Callable[[], Iterator[tuple[int, list[Any]]]], check: bool) -> Epoch:
    """Drains an iterator of (samples, contents); with check, also sums the contents' CRC-32."""
    epoch = Epoch()
    cpu, start = cpu_seconds(), time.perf_counter()
    for samples, contents in batches():
        if not epoch.samples:
            epoch.first_batch_s = time.perf_counter() - start
        epoch.samples += samples
        epoch.bytes += sum(map(len, contents))
        if check:
            epoch.crc_sum += sum(map(zlib.crc32, contents))
    epoch.wall_s = time.perf_counter() - start
    epoch.cpu_s = cpu_seconds() - cpu
    return epoch


def memcpy(total: int) -> dict[str, Any]:
    """Copies total bytes from one buffer of a batch's size into another."""
    import numpy as np

    source, target = np.ones(BUFFER, np.uint8), np.ones(BUFFER, np.uint8)
    cpu, start = cpu_seconds(), time.perf_counter()
    for done in range(0, total, BUFFER):
        n = min(BUFFER, total - done)
        np.copyto(target[:n], source[:n])
    wall = time.perf_counter() - start
    epoch = Epoch(wall_s=wall, cpu_s=cpu_seconds() - cpu, bytes=total)
    return {"epochs": [vars(epoch)]}


def shardstream(source: str, epochs: int, check: bool) -> dict[str, Any]:
    """Our stream into numpy, every sample of the data set at a place of its own in the order."""
    import shardstream as ss

    dataset_class = ss.IterableDataset  # where torch is installed, this imports it
    rss = rss_peak_mb()
    dataset: Any = None

    def batches() -> Iterator[tuple[int, list[Any]]]:
        nonlocal dataset
        if dataset is None:
            dataset = dataset_class(source, batch_size=BATCH, shuffle="global", seed=7)
        for batch in dataset:
            yield len(batch["__key__"]), [*batch["jpg"], *batch["cls"]]

    done = [vars(measure(batches, check)) for _ in range(epochs)]
    dataset.close()
    return {"epochs": done, "rss_import_mb": rss, "version": ss.__version__}


def webdataset(urls: list[str], epochs: int, check: bool) -> dict[str, Any]:
    """The stock package: its own curl children, its usual two-level shuffle, lists of bytes."""
    import webdataset as wds

    rss = rss_peak_mb()
    dataset: Any = None

    def batches() -> Iterator[tuple[int, list[Any]]]:
        nonlocal dataset
        if dataset is None:
            dataset = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000)
            dataset = dataset.to_tuple("jpg", "cls").batched(BATCH, collation_fn=None)
        for batch in dataset:
            yield len(batch), [content for sample in batch for content in sample]

    done = [vars(measure(batches, check)) for _ in range(epochs)]
    return {"epochs": done, "rss_import_mb": rss, "version": wds.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=["memcpy", "shardstream", "webdataset"])
    parser.add_argument("source", nargs="+", help="bytes to copy; an ss:// address; http:// URLs")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="also sum up the contents' CRC-32")
    args = parser.parse_args()
    if args.case == "memcpy":
        result = memcpy(int(args.source[0]))
    elif args.case == "shardstream":
        result = shardstream(args.source[0], args.epochs, args.check)
    else:
        result = webdataset(args.source, args.epochs, args.check)
    print(json.dumps({**result, "rss_peak_mb": rss_peak_mb()}))


if __name__ == "__main__":
    main()

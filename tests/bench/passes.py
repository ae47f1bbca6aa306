"""One client of one pass, in a process of its own.

It says "ready" when its packages are imported, waits for a line, reads its epochs and prints a line
of JSON. Time and CPU count from that line on: CPU is that of this process and of the children that
it reaped. The first epoch includes all opening; the later ones show the same process once it is
warm. Moments are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality import judge
from readers import READERS, Reader, Source
from shards import Manifest

MEMCPY = "memcpy"


@dataclass
class Epoch:
    """What one client saw of one epoch."""

    start: float = 0
    first: float = 0  # when the first batch was there
    last: float = 0  # when the last one was
    end: float = 0
    cpu_s: float = 0
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


def wait_for_start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def measure(reader: Reader) -> Epoch:
    """Drains an epoch."""
    epoch = Epoch(start=time.monotonic())
    cpu = cpu_seconds()
    for batch in reader.epoch():
        epoch.last = time.monotonic()
        if not epoch.first:
            epoch.first = epoch.last
        samples, size = reader.size(batch)
        epoch.samples += samples
        epoch.bytes += size
    epoch.end = time.monotonic()
    epoch.cpu_s = cpu_seconds() - cpu
    return epoch


def check(reader: Reader, manifest: Manifest) -> tuple[Epoch, dict[str, Any]]:
    """Drains an epoch, sums the CRC-32 of all that arrives, and judges its order."""
    epoch = Epoch(start=time.monotonic())
    order: list[list[int]] = []
    for batch in reader.epoch():
        epoch.last = time.monotonic()
        epoch.first = epoch.first or epoch.last
        samples, size = reader.size(batch)
        epoch.samples += samples
        epoch.bytes += size
        epoch.crc_sum += sum(map(zlib.crc32, reader.contents(batch)))
        order.append([int(key) for key in reader.keys(batch)])
    epoch.end = time.monotonic()
    return epoch, vars(judge(order, manifest.samples, manifest.shard_of()))


def memcpy(total: int, size: int) -> Epoch:
    """Copies total bytes from one buffer of a batch's size into another."""
    import numpy as np

    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    wait_for_start()
    epoch = Epoch(start=time.monotonic(), bytes=total)
    cpu = cpu_seconds()
    for done in range(0, total, size):
        n = min(size, total - done)
        np.copyto(target[:n], source[:n])
        epoch.first = epoch.first or time.monotonic()
    epoch.last = epoch.end = time.monotonic()
    epoch.cpu_s = cpu_seconds() - cpu
    return epoch


def run(args: argparse.Namespace) -> dict[str, Any]:
    manifest = Manifest.load(args.folder / "tar" / "manifest.json")
    manifest = manifest.part(args.shards or len(manifest.shards))
    if args.case == MEMCPY:
        spec = manifest.spec
        epoch = memcpy(args.bytes or manifest.payload_bytes, spec.batch * spec.mean_bytes)
        return {"epochs": [vars(epoch)]}
    source = Source(
        manifest,
        args.folder,
        os.environ.get("SHARDSTREAM_ENDPOINT", ""),
        int(os.environ.get("RANK", 0)),
        int(os.environ.get("WORLD_SIZE", 1)),
    )
    reader = READERS[args.case](source)
    rss = rss_peak_mb()
    wait_for_start()
    result: dict[str, Any] = {"rss_import_mb": rss, "version": reader.version}
    epochs = []
    if args.check:
        first, result["quality"] = check(reader, manifest)
        epochs.append(vars(first))
    while len(epochs) < args.epochs:
        epochs.append(vars(measure(reader)))
    return {**result, "epochs": epochs, **reader.close()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=[MEMCPY, *READERS])
    parser.add_argument("folder", type=Path, help="of the data set, with its formats below")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--shards", type=int, help="only the first of them")
    parser.add_argument("--bytes", type=int, help="to copy (memcpy)")
    parser.add_argument(
        "--check", action="store_true", help="hold the first epoch's bytes and order"
    )
    args = parser.parse_args()
    print(json.dumps({**run(args), "rss_peak_mb": rss_peak_mb()}))


if __name__ == "__main__":
    main()

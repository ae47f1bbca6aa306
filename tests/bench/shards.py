"""Generated WebDataset shards: incompressible members of log-normal sizes, or pictures.

Three data sets stand for three kinds of training data: photos, small images, and tokens or rows of
a table. Each fits in the page cache many times over, so no pass waits for a disk.
"""

from __future__ import annotations

import json
import math
import zlib
from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from photos import Photographer

SIGMA = 0.45
CLASSES = 1000
BLOCK = 512


@dataclass(frozen=True)
class Spec:
    """What is generated; the same spec gives the same bytes."""

    name: str = "110kB"
    mean_bytes: int = 110_000
    label: bool = True  # beside the .jpg or .bin, an ASCII .cls
    shards: int = 16
    shard_bytes: int = 64 << 20
    batch: int = 256  # what loaders are asked for
    seed: int = 7
    photos: bool = False  # JPEGs that can be decoded, whatever size they come to

    @property
    def fields(self) -> tuple[str, ...]:
        return ("jpg", "cls") if self.label else ("bin",)


#: In the order in which they are measured and shown.
SPECS = {
    spec.name: spec
    for spec in (
        Spec(),
        Spec("10kB", 10_000, shard_bytes=16 << 20, batch=1024),
        Spec("1kB", 1_000, label=False, shard_bytes=16 << 20, batch=1024),
    )
}

#: What transformations are measured on.
PHOTOS = Spec("photos", shards=8, shard_bytes=24 << 20, batch=128, photos=True)


@dataclass
class Shard:
    """What one file holds."""

    name: str
    samples: int = 0
    payload_bytes: int = 0
    crc_sum: int = 0  # of the CRC-32 of every member's content: the same in any order


@dataclass
class Manifest:
    """What was generated, for passes to be held against."""

    spec: Spec
    shards: list[Shard] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        return [shard.name for shard in self.shards]

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def payload_bytes(self) -> int:
        return sum(shard.payload_bytes for shard in self.shards)

    @property
    def crc_sum(self) -> int:
        return sum(shard.crc_sum for shard in self.shards)

    def part(self, shards: int) -> Manifest:
        """The data set that its first shards are."""
        return Manifest(self.spec, self.shards[:shards])

    def shard_of(self) -> ShardOf:
        return ShardOf([shard.samples for shard in self.shards])

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Manifest:
        loaded = json.loads(path.read_text())
        return cls(Spec(**loaded["spec"]), [Shard(**shard) for shard in loaded["shards"]])


class ShardOf:
    """From a sample's number (its key) to its shard's: samples are numbered through the shards."""

    def __init__(self, counts: list[int]) -> None:
        self._firsts = [sum(counts[:i]) for i in range(len(counts))]

    def __call__(self, sample: int) -> int:
        return bisect_right(self._firsts, sample) - 1


def generate(folder: Path, spec: Spec) -> Manifest:
    """Writes the shards, or finds them written by an earlier run."""
    path = folder / "manifest.json"
    if path.exists():
        manifest = Manifest.load(path)
        if manifest.spec == spec and all((folder / name).exists() for name in manifest.files):
            return manifest
    folder.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    manifest = Manifest(spec)
    rng = np.random.default_rng(spec.seed)
    source = Photographer(rng) if spec.photos else Noise(rng, spec.mean_bytes)
    first = 0
    for i in range(spec.shards):
        shard = Shard(f"train-{i:04d}.tar")
        _write_shard(folder / shard.name, rng, source, spec, shard, first)
        manifest.shards.append(shard)
        first += shard.samples
    manifest.save(path)
    return manifest


class Noise:
    """Incompressible bytes of log-normal sizes."""

    def __init__(self, rng: np.random.Generator, mean: int) -> None:
        self._rng = rng
        self._mu = math.log(mean) - SIGMA**2 / 2

    def take(self) -> bytes:
        return self._rng.bytes(max(1, int(self._rng.lognormal(self._mu, SIGMA))))


def _write_shard(
    path: Path,
    rng: np.random.Generator,
    source: Noise | Photographer,
    spec: Spec,
    shard: Shard,
    first: int,
) -> None:
    with path.open("wb") as out:
        while True:
            content = source.take()
            if out.tell() + len(content) + 8 * BLOCK > spec.shard_bytes:
                break
            contents = [content]
            if spec.label:
                contents.append(str(rng.integers(CLASSES)).encode())
            for ending, content in zip(spec.fields, contents, strict=True):
                out.write(_header(f"{first + shard.samples:08d}.{ending}", len(content)))
                out.write(content)
                out.write(bytes(-len(content) % BLOCK))
                shard.payload_bytes += len(content)
                shard.crc_sum += zlib.crc32(content)
            shard.samples += 1
        out.write(bytes(2 * BLOCK))


def _header(name: str, size: int) -> bytes:
    """A USTAR header of a plain file."""
    fields = (
        name.encode().ljust(100, b"\0")
        + b"0000644\0" + b"0000000\0" + b"0000000\0"
        + b"%011o\0" % size + b"%011o\0" % 0
        + b" " * 8 + b"0" + bytes(100) + b"ustar\0" + b"00"
    ).ljust(BLOCK, b"\0")  # fmt: skip
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]

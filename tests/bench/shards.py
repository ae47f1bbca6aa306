"""Generated WebDataset shards: incompressible .jpg members of photo-like sizes, and ASCII .cls."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

MEAN_BYTES = 110_000
SIGMA = 0.45
CLASSES = 1000
BLOCK = 512


@dataclass(frozen=True)
class Spec:
    """What is generated; the same spec gives the same bytes."""

    shards: int = 16
    shard_bytes: int = 64 << 20
    seed: int = 7


@dataclass
class Manifest:
    """What was generated, for passes to be held against."""

    spec: Spec
    samples: int = 0
    payload_bytes: int = 0
    crc_sum: int = 0  # of the CRC-32 of every member's content: the same in any order
    files: list[str] = field(default_factory=list)


def generate(folder: Path, spec: Spec) -> Manifest:
    """Writes the shards, or finds them written by an earlier run."""
    path = folder / "manifest.json"
    if path.exists():
        loaded = json.loads(path.read_text())
        manifest = Manifest(**{**loaded, "spec": Spec(**loaded["spec"])})
        if manifest.spec == spec and all((folder / name).exists() for name in manifest.files):
            return manifest
    folder.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    manifest = Manifest(spec)
    rng = np.random.default_rng(spec.seed)
    for i in range(spec.shards):
        name = f"train-{i:04d}.tar"
        _write_shard(folder / name, rng, manifest)
        manifest.files.append(name)
    path.write_text(json.dumps(asdict(manifest)))
    return manifest


def _write_shard(path: Path, rng: np.random.Generator, manifest: Manifest) -> None:
    mu = math.log(MEAN_BYTES) - SIGMA**2 / 2
    with path.open("wb") as out:
        while True:
            size = max(1, int(rng.lognormal(mu, SIGMA)))
            if out.tell() + size + 8 * BLOCK > manifest.spec.shard_bytes:
                break
            key = f"{manifest.samples:08d}"
            for ending, content in (
                ("jpg", rng.bytes(size)),
                ("cls", str(rng.integers(CLASSES)).encode()),
            ):
                out.write(_header(f"{key}.{ending}", len(content)))
                out.write(content)
                out.write(bytes(-len(content) % BLOCK))
                manifest.payload_bytes += len(content)
                manifest.crc_sum += zlib.crc32(content)
            manifest.samples += 1
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

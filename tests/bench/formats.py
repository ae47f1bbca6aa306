"""Converts a generated data set into the formats of the peers, once, with the peers' own writers.

Run by the Python that has the package: formats.py mds|litdata FOLDER. A finished conversion has a
stamp beside it; what a run that was cut short left is made anew.
"""

from __future__ import annotations

import argparse
import shutil
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from shards import Manifest


def samples(folder: Path, manifest: Manifest, names: list[str]) -> Iterator[dict[str, Any]]:
    """The samples of some shards, with their keys, as the tars hold them."""
    width = len(manifest.spec.fields)
    for name in names:
        with tarfile.open(folder / "tar" / name) as tar:
            entries = iter(tar)
            while members := list(islice(entries, width)):
                sample: dict[str, Any] = {"__key__": members[0].name.partition(".")[0]}
                for member in members:
                    opened = tar.extractfile(member)
                    assert opened is not None
                    sample[member.name.partition(".")[2]] = opened.read()
                yield sample


def mds(folder: Path, manifest: Manifest) -> None:
    from streaming import MDSWriter

    columns = {"__key__": "str", **dict.fromkeys(manifest.spec.fields, "bytes")}
    size = manifest.spec.shard_bytes
    with MDSWriter(out=str(folder / "mds"), columns=columns, size_limit=size) as out:
        for sample in samples(folder, manifest, manifest.files):
            out.write(sample)


def litdata(folder: Path, manifest: Manifest) -> None:
    from litdata.streaming import Cache

    cache = Cache(str(folder / "litdata"), chunk_bytes=manifest.spec.shard_bytes)
    for i, sample in enumerate(samples(folder, manifest, manifest.files)):
        cache[i] = sample
    cache.done()
    cache.merge()


WRITERS = {"mds": mds, "litdata": litdata}


def stamp_of(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.done"


def converted(folder: Path, kind: str) -> bool:
    """Whether the format is there, made from the shards as they are now."""
    stamp, manifest = stamp_of(folder, kind), folder / "tar" / "manifest.json"
    return stamp.exists() and stamp.read_text() == manifest.read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(WRITERS))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    if converted(args.folder, args.kind):
        return
    manifest = args.folder / "tar" / "manifest.json"
    stamp_of(args.folder, args.kind).unlink(missing_ok=True)
    shutil.rmtree(args.folder / args.kind, ignore_errors=True)
    WRITERS[args.kind](args.folder, Manifest.load(manifest))
    stamp_of(args.folder, args.kind).write_text(manifest.read_text())


if __name__ == "__main__":
    main()

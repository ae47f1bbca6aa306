"""The loaders under test, each read as its own documentation reads it, all to the same end.

Every reader yields an epoch's batches of the size that it is asked for; a batch has each sample's
key and its members' bytes. Bytes are not stacked into one array, which no loader does for ragged
samples. A data set opens with its first epoch, so that opening is measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shards import Manifest

BUCKET_OF = "bench-{}"  # by the data set's name


@dataclass(frozen=True)
class Source:
    """Where the data lies, and which part of the epochs is asked for."""

    manifest: Manifest
    folder: Path  # tar/, mds/ and litdata/ below it hold the same samples
    endpoint: str
    rank: int = 0
    world: int = 1


class Reader(Protocol):
    """One loader, in one client."""

    version: str

    def epoch(self) -> Iterator[Any]:
        """The batches of the next epoch; the first call opens the data set."""

    def size(self, batch: Any) -> tuple[int, int]:
        """Samples and payload bytes of a batch."""

    def keys(self, batch: Any) -> list[str]: ...

    def contents(self, batch: Any) -> Iterator[Any]:
        """Every member's bytes, in any order."""

    def close(self) -> dict[str, Any]:
        """Ends it, and says what it knows about itself."""


class Shardstream:
    """Our stream: one buffer of a batch's bytes in numpy, with views of the samples."""

    def __init__(self, source: Source) -> None:
        import shardstream as ss

        self.version = ss.__version__
        self._class = ss.IterableDataset  # where torch is installed, this imports it
        self._source = source
        self._dataset: Any = None

    def epoch(self) -> Iterator[Any]:
        manifest, source = self._source.manifest, self._source
        if self._dataset is None:
            bucket = BUCKET_OF.format(manifest.spec.name.lower())
            urls = [f"ss://{bucket}/{name}" for name in manifest.files]
            self._dataset = self._class(
                f"ss://{bucket}/train-*.tar" if len(urls) == manifest.spec.shards else urls,
                batch_size=manifest.spec.batch,
                shuffle="global",
                seed=7,
                rank=source.rank,
                world_size=source.world,
                endpoint=source.endpoint,
            )
        return iter(self._dataset)

    def size(self, batch: Any) -> tuple[int, int]:
        fields = self._source.manifest.spec.fields
        return len(batch["__key__"]), sum(batch[field].nbytes for field in fields)

    def keys(self, batch: Any) -> list[str]:
        return list(batch["__key__"])

    def contents(self, batch: Any) -> Iterator[Any]:
        return itertools.chain(*(batch[field] for field in self._source.manifest.spec.fields))

    def close(self) -> dict[str, Any]:
        stats = self._dataset.stats()
        self._dataset.close()
        return {"stats": {k: v for k, v in stats.items() if k != "skipped_keys"}}


class _Tuples:
    """Batches that are lists of (key, content, ...)."""

    def size(self, batch: Any) -> tuple[int, int]:
        return len(batch), sum(len(content) for sample in batch for content in sample[1:])

    def keys(self, batch: Any) -> list[str]:
        return [sample[0] for sample in batch]

    def contents(self, batch: Any) -> Iterator[Any]:
        return (content for sample in batch for content in sample[1:])

    def close(self) -> dict[str, Any]:
        return {}


class WebDataset(_Tuples):
    """The stock package and its usual two-level shuffle; over HTTP with its own curl children."""

    def __init__(self, source: Source, urls: list[str]) -> None:
        import webdataset as wds

        self.version = str(wds.__version__)
        self._package = wds
        self._source = source
        self._urls = urls
        self._dataset: Any = None

    def epoch(self) -> Iterator[Any]:
        wds, spec = self._package, self._source.manifest.spec
        if self._dataset is None:
            # Which client this is, it finds in RANK and WORLD_SIZE.
            dataset = wds.WebDataset(
                self._urls, shardshuffle=len(self._urls), nodesplitter=wds.split_by_node
            )
            dataset = dataset.shuffle(1000).to_tuple("__key__", *spec.fields)
            self._dataset = dataset.batched(spec.batch, collation_fn=None)
        return iter(self._dataset)


class _Samples(_Tuples):
    """Loaders that yield dicts, sample by sample; batches of them are made here, at no cost."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._dataset: Any = None

    def _open(self) -> Any:
        raise NotImplementedError

    def epoch(self) -> Iterator[Any]:
        if self._dataset is None:
            self._dataset = self._open()
        names, batch = ("__key__", *self._source.manifest.spec.fields), []
        for sample in self._dataset:
            batch.append([sample[name] for name in names])
            if len(batch) == self._source.manifest.spec.batch:
                yield batch
                batch = []
        if batch:
            yield batch


class MosaicML(_Samples):
    """MosaicML Streaming on local MDS files, with its default shuffle, py1e."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        import streaming

        self.version = str(streaming.__version__)
        self._class = streaming.StreamingDataset
        join_group(source)
        # What a pass that was killed left behind would stop this one.
        streaming.base.util.clean_stale_shared_memory()

    def _open(self) -> Any:
        source = self._source
        return self._class(
            local=str(source.folder / "mds"),
            shuffle=True,
            shuffle_seed=7,
            batch_size=source.manifest.spec.batch,
        )


class LitData(_Samples):
    """litdata on its local chunks, with its default shuffle.

    Its batch_decode is "auto", which takes our bytes for text; for large samples it is what "auto"
    takes for columns of JPEG, which costs a sixth of the CPU there (and more for small ones).
    """

    LARGE = 64 << 10

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        import litdata

        self.version = str(litdata.__version__)
        self._class = litdata.StreamingDataset
        join_group(source)

    def _open(self) -> Any:
        large = self._source.manifest.spec.mean_bytes >= self.LARGE
        folder = str(self._source.folder / "litdata")
        return self._class(folder, shuffle=True, seed=7, batch_decode=1 if large else "auto")


def join_group(source: Source) -> None:
    """What torchrun does for a job: some loaders find their rank in torch's process group."""
    if source.world > 1:
        import torch.distributed

        torch.distributed.init_process_group("gloo", rank=source.rank, world_size=source.world)


def _over_http(source: Source) -> Reader:
    bucket = BUCKET_OF.format(source.manifest.spec.name.lower())
    base = f"{source.endpoint}/v1/objects/{bucket}"
    return WebDataset(source, [f"{base}/{name}" for name in source.manifest.files])


def _from_files(source: Source) -> Reader:
    folder = source.folder / "tar"
    return WebDataset(source, [str(folder / name) for name in source.manifest.files])


READERS: dict[str, Callable[[Source], Reader]] = {
    "shardstream": Shardstream,
    "webdataset-http": _over_http,
    "webdataset": _from_files,
    "mosaicml": MosaicML,
    "litdata": LitData,
}

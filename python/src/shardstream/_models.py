"""What the cluster says about its buckets, objects, jobs and streams, as plain records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any

from ._backends import BackendInfo
from ._times import time_of

_META = "x-shardstream-meta-"


@dataclass(frozen=True)
class ObjectInfo:
    """One version of an object.

    Attributes:
        bucket: its bucket.
        name: its key within the bucket.
        size: bytes.
        version: rises with every overwrite.
        xxh3: checksum of the whole object, 16 hexadecimal digits.
        crc32: another, 8 hexadecimal digits.
        etag: for conditional requests, quotes included.
        created: when this version was stored.
        content_type: as given with the PUT.
        archive: "tar" where members are indexed, else "".
        members: files in the archive.
        samples: samples in the archive.
        max_sample: bytes of the largest sample.
        meta: the user's own properties.
        cached: in a listing of a bucket with a backend, whether the bytes are in the cluster.
            What is not even described there has version 0, and no checksums and counts.
    """

    bucket: str
    name: str
    size: int
    version: int
    xxh3: str = ""
    crc32: str = ""
    etag: str = ""
    created: datetime | None = None
    content_type: str = ""
    archive: str = ""
    members: int = 0
    samples: int = 0
    max_sample: int = 0
    meta: Mapping[str, str] = field(default_factory=dict)
    cached: bool | None = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ObjectInfo:
        """From an entry of a listing or the answer to a PUT."""
        known = {key: document[key] for key in cls.__dataclass_fields__ if key in document}
        known["created"] = time_of(known.get("created"))
        known["meta"] = dict(known.get("meta") or {})
        return cls(**known)

    @classmethod
    def from_headers(cls, bucket: str, name: str, headers: Message) -> ObjectInfo:
        """From the headers of a HEAD or GET of the whole object."""
        sums = checksums(headers.get("X-Shardstream-Checksum"))
        stamp = headers.get("Last-Modified")
        return cls(
            bucket=bucket,
            name=name,
            size=int(headers.get("Content-Length") or 0),
            version=int(headers.get("X-Shardstream-Version") or 0),
            xxh3=sums.get("xxh3", ""),
            crc32=sums.get("crc32", ""),
            etag=headers.get("ETag") or "",
            created=parsedate_to_datetime(stamp) if stamp else None,
            content_type=headers.get("Content-Type") or "",
            archive=headers.get("X-Shardstream-Archive") or "",
            members=int(headers.get("X-Shardstream-Members") or 0),
            samples=int(headers.get("X-Shardstream-Samples") or 0),
            max_sample=int(headers.get("X-Shardstream-Max-Sample") or 0),
            meta={
                key.lower().removeprefix(_META): value.encode("latin-1").decode(errors="replace")
                for key, value in headers.items()
                if key.lower().startswith(_META)
            },
        )


@dataclass(frozen=True)
class Copy:
    """One stored copy of an object: the node and disk, and the files that hold it."""

    node: str
    disk: str
    kind: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Location:
    """Where an object lies: its owner's address, and its copies (none if it does not exist)."""

    object: str
    version: int
    url: str
    copies: tuple[Copy, ...]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Location:
        """From the answer to ``?op=locate``."""
        copies = tuple(
            Copy(c["node"], c["disk"], c["kind"], tuple(c.get("files") or ()))
            for c in document.get("copies") or ()
        )
        return cls(document["object"], int(document["version"]), document["url"], copies)


@dataclass(frozen=True)
class BucketInfo:
    """A bucket's properties: when it was made, and how it keeps its objects.

    Attributes:
        name: the bucket's name.
        created: when it was made.
        mirror: copies of each object; with `ec`, of small ones.
        ec: (4, 2) where objects are cut into 4 slices with 2 more; None where they are whole.
        degraded: writes are taken while fewer targets are up than copies are to be made.
        backend: where its objects come from; None where they are the cluster's own.
    """

    name: str
    created: datetime | None
    mirror: int
    ec: tuple[int, int] | None = None
    degraded: bool = False
    backend: BackendInfo | None = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> BucketInfo:
        """From the answer to a GET of the bucket."""
        ec = document.get("ec")
        return cls(
            document["name"],
            time_of(document.get("created")),
            int(document["mirror"]),
            (int(ec["data"]), int(ec["parity"])) if ec else None,
            bool(document.get("degraded")),
            BackendInfo.from_json(document["backend"]) if document.get("backend") else None,
        )


@dataclass(frozen=True)
class JobStatus:
    """A job and how far it is.

    Attributes:
        id: its name.
        kind: "transform", "scrub", "prefetch" or "evict".
        state: "queued", "running", "done", "failed" or "aborted".
        spec: what it does, as it was described.
        total: objects, None until they are counted.
        done: outputs that are stored; objects that were fetched, or evicted.
        skipped: objects that were up to date, or gone before their turn; that were cached already,
            or are not to be evicted.
        failed: objects that it could not deal with; of a scrub, damaged copies that stay so.
        repaired: of a scrub, damaged copies that it replaced by good ones.
        bytes_in: bytes of the sources that are dealt with.
        bytes_out: bytes of the outputs.
        rate: objects a second.
        eta: seconds to go, None where that can't be told.
        waiting: what it waits for, a sentence each.
        error: why it failed, else "".
        error_code: the stable code of that, else "".
        runner: the gateway that coordinates it.
        created: when it was started by a client.
        started: when a gateway began with it.
        ended: when it was over.
    """

    id: str
    kind: str
    state: str
    spec: Mapping[str, Any]
    total: int | None
    done: int
    skipped: int
    failed: int
    repaired: int
    bytes_in: int
    bytes_out: int
    rate: float
    eta: float | None
    waiting: tuple[str, ...]
    error: str
    error_code: str
    runner: str
    created: datetime | None
    started: datetime | None
    ended: datetime | None

    @property
    def finished(self) -> bool:
        """Whether it has come to its end."""
        return self.state in ("done", "failed", "aborted")

    @property
    def finished_objects(self) -> int:
        """Objects that are dealt with."""
        return self.done + self.skipped + self.failed

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> JobStatus:
        """From the answer to a GET of the job."""
        counts, rate = document.get("counts") or {}, document.get("rate") or {}
        error = document.get("error") or {}
        kind, total = str(document["kind"]), int(counts.get("total", -1))
        return cls(
            id=document["id"],
            kind=kind,
            state=document["state"],
            spec=dict(document.get(kind) or {}),
            total=None if total < 0 else total,
            **{
                name: int(counts.get(name) or 0)
                for name in ("done", "skipped", "failed", "repaired", "bytes_in", "bytes_out")
            },
            rate=float(rate.get("objects_per_s") or 0),
            eta=rate.get("eta_s"),
            waiting=tuple(document.get("waiting") or ()),
            error=error.get("message", ""),
            error_code=error.get("code", ""),
            runner=document.get("runner", ""),
            created=time_of(document.get("created")),
            started=time_of(document.get("started")),
            ended=time_of(document.get("ended")),
        )


@dataclass(frozen=True)
class JobFailure:
    """An object that a job could not deal with.

    Attributes:
        object: ss://bucket/key.
        node: the target that tried.
        code: the stable code of the error.
        message: why; of user code with its traceback.
    """

    object: str
    node: str
    code: str
    message: str

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> JobFailure:
        """From an entry of the job's failures."""
        error = document["error"]
        return cls(document["object"], document["node"], error["code"], error["message"])


@dataclass(frozen=True)
class SampleOrigin:
    """Where one sample of a batch comes from.

    Attributes:
        position: in the epoch.
        sample: its number in the snapshot.
        shard: ss://bucket/key.
        version: of the shard, as the snapshot has it.
        index: its place in the shard, counted from 0.
        key: its name; "" where error says why it is not known.
        target: the node that holds the shard, or should.
        error: "" where all is well.
        source: number of the mixture's source; None outside of mixtures.
    """

    position: int
    sample: int
    shard: str
    version: int
    index: int
    key: str
    target: str
    error: str = ""
    source: int | None = None


@dataclass(frozen=True)
class Explanation:
    """Which samples a batch has, and where they come from; a sequence of `SampleOrigin`.

    Attributes:
        snapshot: id of the data that the order was made of.
        seed: of the order.
        epoch: which one.
        shuffle: "global", "window", "shards" or None.
        rank: whose batch.
        world_size: of how many ranks.
        batch: its number in the rank's epoch; None where positions were asked for.
        position: of the first sample in the epoch.
        next_position: what a checkpoint behind the batch stores.
        padding: the rank has no sample in this step and repeats one that is another's, masked.
        samples: in the order of the batch.
    """

    snapshot: str
    seed: int
    epoch: int
    shuffle: str | None
    rank: int
    world_size: int
    batch: int | None
    position: int
    next_position: int
    padding: bool
    samples: tuple[SampleOrigin, ...]

    def __len__(self) -> int:
        """Samples in the batch."""
        return len(self.samples)

    def __iter__(self) -> Iterator[SampleOrigin]:
        """Each sample, in order."""
        return iter(self.samples)

    def __getitem__(self, index: int) -> SampleOrigin:
        """The sample in one row of the batch."""
        return self.samples[index]

    @property
    def keys(self) -> list[str]:
        """The samples' names: what the batch has in ``"__key__"``."""
        return [sample.key for sample in self.samples]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Explanation:
        """From the answer to POST /v1/streams/explain."""
        samples = (
            {name: entry[name] for name in SampleOrigin.__dataclass_fields__ if name in entry}
            for entry in document["samples"]
        )
        shuffle, batch = str(document["shuffle"]), int(document["batch"])
        return cls(
            snapshot=document["snapshot"],
            seed=int(document["seed"]),
            epoch=int(document["epoch"]),
            shuffle=None if shuffle == "none" else shuffle,
            rank=int(document["rank"]),
            world_size=int(document["world_size"]),
            batch=None if batch < 0 else batch,
            position=int(document["position"]),
            next_position=int(document["next"]),
            padding=bool(document["padding"]),
            samples=tuple(SampleOrigin(**sample) for sample in samples),
        )


def checksums(header: str | None) -> dict[str, str]:
    """The sums in an X-Shardstream-Checksum header, by kind."""
    pairs = (part.strip().partition("=") for part in (header or "").split(","))
    return {kind: value for kind, _, value in pairs if value}

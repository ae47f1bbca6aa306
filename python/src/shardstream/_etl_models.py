"""What the cluster says about its transformations, as plain records."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ._times import time_of


@dataclass(frozen=True)
class ETLHealth:
    """How a transformation is on a target.

    Attributes:
        state: "ready", "new", "starting", "building", "unreachable" or "failed".
        detail: one line: what is being built, why it failed.
        since: when it got into this state.
        isolation: the level in force: "strict", "landlock" or "none"; "" where nothing is run.
        confined: what exactly confines it.
        python: version that a function runs under.
    """

    state: str
    detail: str
    since: datetime | None
    isolation: str
    confined: tuple[str, ...]
    python: str

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ETLHealth:
        """From a part of a status."""
        return cls(
            state=document["state"],
            detail=document.get("detail", ""),
            since=time_of(document.get("since")),
            isolation=document.get("isolation", ""),
            confined=tuple(document.get("confined") or ()),
            python=document.get("python", ""),
        )


@dataclass(frozen=True)
class ETLStats:
    """Counts of a transformation, since its version was taken over or the target started.

    Attributes:
        workers: processes that it may have, or requests at once.
        running: processes alive.
        requests: calls: one for a batch of samples or an object.
        samples: samples and objects that were answered.
        errors: of these, those that failed.
        restarts: processes that died or were killed.
        timeouts: of these, those that took too long.
        bytes_in: bytes given to it.
        bytes_out: bytes that it returned.
        waiting: samples that are not answered yet.
        busy: seconds of work, summed over workers.
        mean: seconds of a call.
        p50: seconds that half of the calls took at most, as an upper bound.
        p99: the same for 99 of 100.
    """

    workers: int
    running: int
    requests: int
    samples: int
    errors: int
    restarts: int
    timeouts: int
    bytes_in: int
    bytes_out: int
    waiting: int
    busy: float
    mean: float
    p50: float
    p99: float

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ETLStats:
        """From a part of a status."""
        latency = document.get("latency") or {}
        return cls(
            workers=int(document.get("workers") or 0),
            running=int(document.get("running") or 0),
            requests=int(document.get("requests") or 0),
            samples=int(document.get("samples") or 0),
            errors=int(document.get("errors") or 0),
            restarts=int(document.get("restarts") or 0),
            timeouts=int(document.get("timeouts") or 0),
            bytes_in=int(document.get("bytes_in") or 0),
            bytes_out=int(document.get("bytes_out") or 0),
            waiting=int(document.get("waiting") or 0),
            busy=float(document.get("busy_s") or 0),
            mean=float(latency.get("mean_s") or 0),
            p50=float(latency.get("p50_s") or 0),
            p99=float(latency.get("p99_s") or 0),
        )


@dataclass(frozen=True)
class ETLTarget:
    """How a transformation is on one target.

    Attributes:
        id: the target's.
        version: that it runs; 0 for none yet.
        health: of that version.
        stats: of that version.
        candidate: how far a version is that is being tried before it is deployed.
    """

    id: str
    version: int
    health: ETLHealth
    stats: ETLStats
    candidate: ETLHealth | None = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ETLTarget:
        """From a part of a status."""
        candidate = document.get("candidate")
        return cls(
            id=document["id"],
            version=int(document.get("version") or 0),
            health=ETLHealth.from_json(document["health"]),
            stats=ETLStats.from_json(document["stats"]),
            candidate=None if candidate is None else ETLHealth.from_json(candidate),
        )


@dataclass(frozen=True)
class ETLStatus:
    """How a transformation is on the targets.

    Attributes:
        state: that of the target on which it is worst.
        ready: targets on which it is ready.
        wanted: targets that are up.
        stats: of all targets together.
        targets: each by itself; empty in a list of transformations.
    """

    state: str
    ready: int
    wanted: int
    stats: ETLStats
    targets: tuple[ETLTarget, ...]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ETLStatus:
        """From the answer to a GET of the status."""
        return cls(
            state=document["state"],
            ready=int(document["ready"]),
            wanted=int(document["wanted"]),
            stats=ETLStats.from_json(document["stats"]),
            targets=tuple(ETLTarget.from_json(t) for t in document.get("targets") or ()),
        )


@dataclass(frozen=True)
class ETLInfo:
    """A deployed transformation.

    Attributes:
        name: its name, as in ``etl="..."``.
        kind: "function", "container", "server" or "command".
        level: "sample" (dict to dict), "batch" (list of dicts to columns) or "object" (bytes).
        version: rises with every change.
        created: when this version was deployed.
        source: the Python source that runs; "" where there is none.
        entry: the function in it.
        pickle: a function by cloudpickle, in place of source.
        requirements: packages that it needs.
        python: version that it needs; "" for the node's.
        image: of a container.
        command: of a container or a command.
        env: environment variables.
        port: that a container's server listens on; 0 where it is given one.
        url: of a server.
        transport: "push", "redirect", "proxy" or "stdio".
        fields: of a sample, that an object-level transformation is applied to in streams.
        args: defaults of the arguments that requests may give.
        workers: processes per target; 0 is one per CPU.
        timeout: seconds for one sample or object.
        memory: bytes of one worker or of a container.
        cpus: of one worker or of a container; 0 is no limit.
        max_output: bytes of one answer.
        isolation: the least that will do; "" for the most that the nodes have.
        network: that it may use.
        status: how it is on the targets; None in the answer to `create`.
    """

    name: str
    kind: str
    level: str
    version: int
    created: datetime | None
    source: str
    entry: str
    pickle: bytes
    requirements: tuple[str, ...]
    python: str
    image: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    port: int
    url: str
    transport: str
    fields: tuple[str, ...]
    args: Mapping[str, Any]
    workers: int
    timeout: float
    memory: int
    cpus: float
    max_output: int
    isolation: str
    network: str
    status: ETLStatus | None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ETLInfo:
        """From the answer to a GET of the transformation."""
        status = document.get("status")
        return cls(
            name=document["name"],
            kind=document.get("kind", "function"),
            level=document.get("level", ""),
            version=int(document.get("version") or 0),
            created=time_of(document.get("created")),
            source=document.get("source", ""),
            entry=document.get("entry", ""),
            pickle=base64.b64decode(document.get("pickle") or ""),
            requirements=tuple(document.get("requirements") or ()),
            python=document.get("python", ""),
            image=document.get("image", ""),
            command=tuple(document.get("command") or ()),
            env=dict(document.get("env") or {}),
            port=int(document.get("port") or 0),
            url=document.get("url", ""),
            transport=document.get("transport", ""),
            fields=tuple(document.get("fields") or ()),
            args=dict(document.get("args") or {}),
            workers=int(document.get("workers") or 0),
            timeout=float(document.get("timeout_s") or 0),
            memory=int(document.get("memory") or 0),
            cpus=float(document.get("cpus") or 0),
            max_output=int(document.get("max_output") or 0),
            isolation=document.get("isolation", ""),
            network=document.get("network", ""),
            status=None if status is None else ETLStatus.from_json(status),
        )


@dataclass(frozen=True)
class ETLField:
    """A field of a sample that a transformation gave.

    Attributes:
        name: its name.
        dtype: "bytes", "text", or the type of a number or of an array's elements.
        shape: of an array; empty for all else.
        size: bytes.
        text: a number, or the beginning of a text.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    text: str


@dataclass(frozen=True)
class ETLTrial:
    """What came of a transformation that was tried; `client.etl.test`.

    Attributes:
        etl: its name.
        version: the one that was tried; 0 if it is not deployed.
        level: "sample", "batch" or "object".
        target: the node that has the object.
        key: of the sample that was taken, or the object's name.
        prepare: seconds until it could begin.
        took: seconds from then on.
        fields: of a sample.
        size: bytes that came out.
        content_type: of an object.
        data: the bytes, where they were asked for.
        error: why it failed, with the traceback; empty if it did not.
        log: what it printed.
    """

    etl: str
    version: int
    level: str
    target: str
    key: str
    prepare: float
    took: float
    fields: tuple[ETLField, ...]
    size: int
    content_type: str
    data: bytes | None
    error: str
    log: str

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ETLTrial:
        """From the answer to a POST of the test."""
        data = document.get("data")
        return cls(
            etl=document["etl"],
            version=int(document.get("version") or 0),
            level=document["level"],
            target=document["target"],
            key=document["key"],
            prepare=float(document["prepare_s"]),
            took=float(document["took_s"]),
            fields=tuple(
                ETLField(
                    name=field["name"],
                    dtype=field["dtype"],
                    shape=tuple(field.get("shape") or ()),
                    size=int(field["size"]),
                    text=field.get("text", ""),
                )
                for field in document.get("fields") or ()
            ),
            size=int(document["size"]),
            content_type=document.get("content_type", ""),
            data=None if data is None else base64.b64decode(data),
            error=(document.get("error") or {}).get("message", ""),
            log=document.get("log", ""),
        )

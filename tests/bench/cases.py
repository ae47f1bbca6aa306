"""What is measured: the limits of the machine, our stream, and its peers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

LIMIT, OURS, PEER = "limit", "ours", "peer"
CLIENTS = (1, 2, 4)


@dataclass(frozen=True)
class Case:
    """One line of the tables; epochs are of a pass, so that fast cases have seconds to show."""

    name: str
    title: str
    kind: str
    module: str = ""  # what the client's Python must be able to import
    format: str = ""  # what the data set is converted to first
    reader: str = ""  # of readers.py
    transport: str = ""  # that our clients must then say they used
    environment: dict[str, str] = field(default_factory=dict)
    epochs: int = 2
    most_clients: int = CLIENTS[-1]


MEMCPY, TCP, SENDFILE = "memcpy", "tcp", "sendfile"
SHARED, STREAM = "shardstream", "shardstream-tcp"
OVER_HTTP, LITDATA = "webdataset-http", "litdata"

CASES = {
    case.name: case
    for case in (
        Case(MEMCPY, "memory copy", LIMIT, "numpy", epochs=1, most_clients=1),
        Case(TCP, "plain loopback TCP, from memory", LIMIT),
        Case(SENDFILE, "plain loopback TCP, from files (sendfile)", LIMIT),
        Case(
            SHARED, "shardstream, shared arena", OURS, "shardstream",
            reader="shardstream", transport="shared_memory", epochs=6,
        ),
        Case(
            STREAM, "shardstream, TCP", OURS, "shardstream",
            reader="shardstream", transport="tcp", epochs=6,
            environment={"SHARDSTREAM_SHARED_MEMORY": "off"},
        ),
        Case(OVER_HTTP, "webdataset, HTTP", PEER, "webdataset", reader="webdataset-http"),
        Case("webdataset", "webdataset, local files", PEER, "webdataset", reader="webdataset"),
        Case(
            "mosaicml", "MosaicML Streaming, local files", PEER, "streaming",
            format="mds", reader="mosaicml",
        ),
        Case(
            LITDATA, "litdata, local files", PEER, "litdata",
            format="litdata", reader="litdata",
        ),
    )
}  # fmt: skip


def missing(case: Case) -> str:
    """Why the case can't run with this Python; empty where it can."""
    if not case.module:
        return ""
    command = [sys.executable, "-W", "ignore", "-c", f"import {case.module}"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode == 0:
        return ""
    last = (found.stderr.strip().splitlines() or [f"exit {found.returncode}"])[-1]
    return f"{case.module} can't be imported: {last}"

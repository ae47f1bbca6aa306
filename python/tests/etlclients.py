"""What a node does with an ETL server, by plain HTTP."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardstream.etl import _samples
from shardstream.etl._samples import Fault, Sample

TIMEOUT = 30


@dataclass
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("etl", timeout=TIMEOUT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self.path)


class Peer:
    """Requests to a server, over one connection for as long as it lasts."""

    def __init__(self, address: str) -> None:
        if address.startswith("/"):
            self.connection: http.client.HTTPConnection = UnixConnection(address)
        else:
            netloc = urllib.parse.urlsplit(address).netloc
            self.connection = http.client.HTTPConnection(netloc, timeout=TIMEOUT)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        args: object = None,
    ) -> Answer:
        """Send a request and read the whole answer; one that breaks off is IncompleteRead."""
        if args is not None:
            path += "?" + urllib.parse.urlencode({"etl_args": json.dumps(args)})
        self.connection.request(method, path, body=body, headers=headers or {})
        response = self.connection.getresponse()
        data = response.read()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, data)

    def samples(self, *samples: Sample, args: object = None) -> list[Sample | Fault]:
        """Have samples transformed."""
        answer = self.ask("POST", "/samples", message(samples), SAMPLES, args)
        assert answer.status == 200, answer.body.decode()
        assert answer.headers["content-type"] == _samples.CONTENT_TYPE
        return list(_samples.read_message(io.BytesIO(answer.body)))

    def close(self) -> None:
        self.connection.close()


SAMPLES = {"Content-Type": _samples.CONTENT_TYPE}


def message(items: Iterable[Sample]) -> bytes:
    """Return the body of a request."""
    parts: list[bytes] = [_samples.MAGIC]
    count = 0
    for item in items:
        parts += [bytes(part) for part in _samples.encode_sample(item)]
        count += 1
    return b"".join([*parts, _samples.encode_end(count)])


@contextlib.contextmanager
def peer(address: str) -> Iterator[Peer]:
    """Connect to a server."""
    peer = Peer(address)
    try:
        yield peer
    finally:
        peer.close()


def wait_for(address: str, process: subprocess.Popen[Any] | None = None) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            with peer(address) as one:
                assert one.ask("GET", "/health").status == 200
                return
        except OSError as error:
            ended = process is not None and process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"no server at {address}: {error}") from None
            time.sleep(0.02)


@contextlib.contextmanager
def served(
    source: str, folder: Path, *options: str, env: dict[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `python -m shardstream.etl` for a source, on a socket in folder."""
    (folder / "function.py").write_text(source)
    path = str(folder / "etl.sock")
    process = subprocess.Popen(
        [sys.executable, "-m", "shardstream.etl", str(folder / "function.py"), *options],
        env={**os.environ, "SHARDSTREAM_SOCKET": path, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(path, process)
        yield path, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise

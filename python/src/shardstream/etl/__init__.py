"""Serve a function to a shardstream cluster: what runs in an ETL container.

>>> from shardstream.etl import serve
>>> def transform(data: bytes) -> bytes:
...     return data.upper()
>>> serve(transform)

Only the standard library is needed. `python -m shardstream.etl FILE.py` serves the function of a
file without any of these lines.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import _server
from ._function import Function

__all__ = ["serve", "serving"]

DEFAULT_MAX_BODY = 1 << 30


def serve(
    function: Callable[..., Any],
    *,
    level: str = "object",
    address: str | None = None,
    processes: int = 1,
    threads: int | None = None,
    stream: bool | None = None,
    content_type: str = "application/octet-stream",
    target: str | None = None,
    max_body: int = DEFAULT_MAX_BODY,
    timeout: float = 300.0,
) -> None:
    """Serve a function over HTTP until SIGTERM or SIGINT.

    Requests that are under way are then answered before this returns.

    Args:
        function: At level "object", `transform(data)` takes bytes, or a binary file if its
            parameter is annotated as `BinaryIO`, and returns bytes, an iterator of bytes or a
            binary file. At level "sample", `transform(sample)` takes a dict and returns one; at
            level "batch", `transform(samples)` takes a list of dicts and returns a dict of
            columns. The arguments of a request (`etl_args`) are keyword arguments.
        level: "object", "sample" or "batch".
        address: "HOST:PORT", or the path of a Unix socket. By default what the environment says:
            the socket `SHARDSTREAM_SOCKET`, else `SHARDSTREAM_LISTEN` (HOST:PORT), else port
            `PORT` of all interfaces, else 127.0.0.1:8000.
        processes: Processes that call the function. Python runs one thread at a time, so a
            function that computes needs one for each CPU; 0 starts as many as the node sends
            requests at once (`SHARDSTREAM_WORKERS`), or as there are CPUs.
        threads: Calls at once in each process. By default 1 where `processes` is not 1 or samples
            are transformed, so that a function need not be thread-safe and what it draws from
            `random`, numpy and torch is the sample's own; else one for each CPU.
        stream: Whether an object-level function takes a file; by default its annotation says so.
        content_type: Of transformed objects.
        target: URL of the node's objects, which are read from there by redirect and proxy; by
            default `SHARDSTREAM_TARGET_URL`.
        max_body: Bytes of an object, or of a sample, that is read into memory.
        timeout: Seconds that the node may take to go on with an object that is read from it.
    """
    for name, count, low in (("processes", processes, 0), ("threads", threads, 1)):
        if count is not None and (not isinstance(count, int) or count < low):
            raise ValueError(f"{name} is a whole number of {low} or more, not {count!r}")
    count = processes or int(os.environ.get("SHARDSTREAM_WORKERS") or 0) or os.cpu_count() or 1
    made = _prepare(function, level, stream, threads, count)
    listener = _server.listen(_server.address_of(address))

    def make() -> _server.Server:
        return _server.Server(
            made[0],
            listener,
            threads=made[1],
            content_type=content_type,
            target=_target(target),
            max_body=max_body,
            timeout=timeout,
            shared=count > 1,
        )

    if count == 1:
        _server.run_until_signal(make())
    else:
        _server.run_processes(make, listener, count)


@contextlib.contextmanager
def serving(
    function: Callable[..., Any],
    *,
    level: str = "object",
    address: str = "127.0.0.1:0",
    threads: int | None = None,
    stream: bool | None = None,
    content_type: str = "application/octet-stream",
    target: str | None = None,
    max_body: int = DEFAULT_MAX_BODY,
    timeout: float = 300.0,
) -> Iterator[str]:
    """Serve a function from threads of this process while the block runs; for notebooks and tests.

    Takes what `serve` takes, and gives the server's URL, or the path of its socket.
    """
    made = _prepare(function, level, stream, threads, 1)
    listener = _server.listen(address)
    name = listener.getsockname()
    server = _server.Server(
        made[0],
        listener,
        threads=made[1],
        content_type=content_type,
        target=_target(target),
        max_body=max_body,
        timeout=timeout,
    )
    thread = threading.Thread(target=server.run, name="shardstream-etl", daemon=True)
    thread.start()
    try:
        yield name if isinstance(name, str) else f"http://{name[0]}:{name[1]}"
    finally:
        server.stop()
        thread.join()


def _prepare(
    function: Callable[..., Any],
    level: str,
    stream: bool | None,
    threads: int | None,
    processes: int,
) -> tuple[Function, int]:
    if threads is None:
        threads = (os.cpu_count() or 1) if processes == 1 and level == "object" else 1
    return Function(function, level, stream=stream, seeded=threads == 1), threads


def _target(target: str | None) -> str:
    return target if target is not None else os.environ.get("SHARDSTREAM_TARGET_URL", "")

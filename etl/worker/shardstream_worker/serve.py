"""The loop of a worker: reads requests, calls the function, answers in their order."""

from __future__ import annotations

import faulthandler
import gc
import io
import json
import mmap
import os
import resource
import struct
import sys
from collections.abc import Iterator
from typing import Any

from . import frames as f
from .answers import Answer, Area, Echoes, columns_frame, object_frame, sample_frame
from .calls import Caller
from .faults import error_frame
from .loading import load, takes_file
from .streams import Incoming, send_pieces
from .values import BYTES, Typed

_MAX_IOV = 512
_MOST = 1 << 30  # bytes of the answer to a batch, whatever the limit for each of its samples

forked = False


def _after_fork_in_child() -> None:
    """Keep a child that user code forks away from the node's socket."""
    global forked
    forked = True
    os.close(f.SOCKET_FD)


def _gone() -> None:
    """End, as the node has."""
    os._exit(0)


def _send(parts: list[Any]) -> None:
    """Write all of it."""
    at = 0
    while at < len(parts):
        sent = os.writev(f.SOCKET_FD, parts[at : at + _MAX_IOV])
        while sent > 0 or (at < len(parts) and len(parts[at]) == 0):
            size = len(parts[at])
            if sent < size:
                parts[at] = memoryview(parts[at])[sent:]
                break
            sent -= size
            at += 1


Fields = list[tuple[str, object]]


class _Worker:
    def __init__(self) -> None:
        self.reader = io.BufferedReader(io.FileIO(f.SOCKET_FD, "rb", closefd=False), 64 << 10)
        self.status = memoryview(mmap.mmap(f.STATUS_FD, mmap.PAGESIZE)).cast("Q")
        arena = memoryview(mmap.mmap(f.ARENA_FD, os.fstat(f.ARENA_FD).st_size))
        half = len(arena) // 2
        self.incoming, self.area = arena[:half], Area(arena[half:])
        self.echoes = Echoes()
        # Answers that wait for others, so that a crossing carries many.
        self.pending: list[bytes] = []
        self.pending_size = 0
        self.shared_sent = 0  # of the area, in answers that have been sent
        self.batch: list[tuple[int, str, Fields]] = []
        self.limit = self.total = 0
        self.caller: Caller | None = None
        self.streams = False

    def exactly(self, n: int) -> bytes:
        data = self.reader.read(n)
        if len(data) != n:
            _gone()
        return data

    def run(self) -> None:
        while True:
            head = self.reader.read(f.REQUEST_HEAD.size)
            if len(head) < f.REQUEST_HEAD.size:
                _gone()
            magic, kind, flags, fields, seq, seed, meta_len, key_len, data_len = (
                f.REQUEST_HEAD.unpack(head)
            )
            if magic != f.REQUEST_MAGIC:
                raise SystemExit("frame out of step")
            if flags & f.FLAG_FIRST:
                self.area.used = self.shared_sent = 0
            key = self.exactly(key_len).decode("utf-8", "surrogateescape") if key_len else ""
            meta = self.exactly(meta_len) if meta_len else b""
            if kind == f.REQUEST_INIT:
                self.init(json.loads(self.exactly(data_len)))
                continue
            if self.caller is None:
                raise SystemExit("sample before a definition")
            if kind == f.REQUEST_ARGS:
                self.caller.take(self.exactly(data_len))
            elif kind == f.REQUEST_SAMPLE:
                self.sample(self.caller, seq, seed, key, self.fields(fields, meta, 0))
            elif kind == f.REQUEST_BATCH:
                self.batch.append((seed, key, self.fields(fields, meta, len(self.batch))))
                if flags & f.FLAG_LAST:
                    self.columns(self.caller, seq)
            elif kind == f.REQUEST_OBJECT:
                ((_, data),) = self.fields(fields, meta, 0)
                self.whole(self.caller, seq, seed, data)
            else:
                self.stream(self.caller, seq)
            shared = self.area.used - self.shared_sent
            if flags & f.FLAG_FLUSH or self.pending_size + shared > f.SEND_ABOVE:
                self.flush()

    def init(self, definition: dict[str, Any]) -> None:
        self.limit, self.total = definition["max_sample"], definition["max_stream"]
        try:
            function = load(definition)
            self.streams = definition["level"] == "object" and takes_file(function)
            self.caller = Caller(function)
            flags = f.FLAG_STREAMS if self.streams else 0
            frame = f.RESULT_HEAD.pack(f.RESULT_MAGIC, f.RESULT_READY, flags, 0, 0, 0, 0, 0)
        except BaseException as e:
            frame = error_frame(f.RESULT_BROKEN, 0, e)
        self.quiet()
        gc.collect()
        gc.freeze()
        _send([frame])

    def fields(self, count: int, meta: bytes, sample: int) -> Fields:
        """Read the fields of a sample, each into an object of its own."""
        out: Fields = []
        at = 0
        if not sample:
            self.echoes.clear()
        for number in range(count):
            name_len, dtype, ndim, size, place = f.FIELD_HEAD.unpack_from(meta, at)
            at += f.FIELD_HEAD.size
            shape = struct.unpack_from(f"<{ndim}q", meta, at) if ndim else ()
            at += 8 * ndim
            name = meta[at : at + name_len].decode("utf-8", "surrogateescape")
            at += name_len
            if place == f.INLINE:
                data = self.exactly(size) if size else b""
            else:
                data = bytes(self.incoming[place : place + size])
            if dtype == BYTES:
                self.echoes.add(sample, number, data)
            out.append((name, data if dtype == BYTES else Typed(dtype, shape, data)))
        return out

    def sample(self, caller: Caller, seq: int, seed: int, key: str, fields: Fields) -> None:
        self.status[0] = seq
        used = self.area.used
        try:
            caller.check()
            result = caller.seeded(lambda: _dict(seed, key, fields), seed)
            answer = Answer(self.area, self.echoes, self.limit)
            frame = sample_frame(answer, seq, key, result)
        except BaseException as e:
            self.area.used = used
            frame = error_frame(f.RESULT_ERROR, seq, e)
        self.finish(frame)

    def columns(self, caller: Caller, seq: int) -> None:
        batch, self.batch = self.batch, []
        self.status[0] = seq
        used = self.area.used
        try:
            caller.check()
            samples = [_dict(seed, key, fields) for seed, key, fields in batch]
            result = caller(samples)
            limit = max(self.limit, min(self.limit * len(batch), _MOST))
            frame = columns_frame(Answer(self.area, self.echoes, limit), seq, len(batch), result)
        except BaseException as e:
            self.area.used = used
            frame = error_frame(f.RESULT_ERROR, seq, e)
        self.finish(frame)

    def whole(self, caller: Caller, seq: int, seed: int, data: object) -> None:
        self.status[0] = seq
        try:
            caller.check()
            self.deliver(seq, caller.seeded(lambda: data, seed))
        except BaseException as e:
            self.finish(error_frame(f.RESULT_ERROR, seq, e))

    def stream(self, caller: Caller, seq: int) -> None:
        """Give the function its object as a file."""
        self.status[0] = seq
        source = Incoming(self.reader, _gone)
        try:
            caller.check()
            self.deliver(seq, caller(io.BufferedReader(source, f.PIECE)))
        except BaseException as e:
            self.finish(error_frame(f.RESULT_ERROR, seq, e))
        self.flush()  # the node sends to the end, or until it has the answer
        source.drain()

    def deliver(self, seq: int, result: object) -> None:
        """Send what an object function returned."""
        if isinstance(result, Iterator):
            send_pieces(seq, result, self.total, self.piece)
            self.finish(b"")
        else:
            self.finish(object_frame(Answer(self.area, self.echoes, self.limit), seq, result))

    def piece(self, parts: list[object]) -> None:
        if forked:
            os._exit(0)
        _send(parts)

    def finish(self, frame: bytes) -> None:
        if forked:  # user code forked, and this is the child: it has no business here
            os._exit(0)
        self.quiet()
        if frame:
            self.pending.append(frame)
            self.pending_size += len(frame)
        self.status[0] = 0

    def flush(self) -> None:
        pending, self.pending, self.pending_size = self.pending, [], 0
        self.shared_sent = self.area.used
        if pending:
            _send([b"".join(pending)])

    def quiet(self) -> None:
        """Send what user code has printed; it may have closed or replaced the streams."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                continue


def _dict(seed: int, key: str, fields: Fields) -> dict[str, object]:
    """What the function is given of a sample."""
    made: dict[str, object] = {"__key__": key, "__seed__": seed}
    for name, value in fields:
        made[name] = value.decode() if type(value) is Typed else value
    return made


def main() -> None:
    """Set the process up and serve until the node closes the socket."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [p for p in sys.path if p != here]
    sys.argv = [sys.argv[0]]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    worker = _Worker()
    os.closerange(f.STATUS_FD, 4096)
    os.set_inheritable(f.SOCKET_FD, False)
    os.register_at_fork(after_in_child=_after_fork_in_child)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    worker.run()

"""A loader in plain Python with the functions of pybind, and the means to build its slots.

It serves an epoch of numbered samples in an order of its own, by the same arithmetic of ranks,
workers and positions as the Go package sampler, from slots in memfds, as the Go loader does.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MAGIC = 0x53535441424C0001
CODES = {
    np.dtype(name): code
    for code, name in enumerate(
        (
            *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
            *("float16", "float32", "float64"),
        ),
        start=1,
    )
}


class Image:
    """The bytes of a slot under construction."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, payload: bytes, align: int = 8) -> int:
        """Append and return the offset."""
        self.data += bytes(-len(self.data) % align)
        offset = len(self.data)
        self.data += payload
        return offset

    def words(self, values: Sequence[int]) -> int:
        return self.add(np.array(values, np.int64).tobytes())


def slot_image(
    columns: Mapping[str, Any],
    keys: Sequence[str],
    *,
    index: int = 0,
    start: int = 0,
    following: int = 0,
    mask: Sequence[bool] | None = None,
    skipped: int = 0,
) -> tuple[bytes, int]:
    """A slot's bytes and the offset of its table.

    An ndarray is a dense column [n, *dims]; a list is a ragged one of bytes, str or arrays, None
    where the field is missing.
    """
    n = len(keys)
    image = Image()
    rows = [_column(image, name, values, n) for name, values in columns.items()]
    names = [image.add(name.encode()) for name in columns]
    blob = "".join(keys).encode()
    ends = np.cumsum([len(key.encode()) for key in keys], dtype=np.int64)
    head = [MAGIC, n, len(rows), index, start, following, 0, 0]
    head += [image.add(blob), len(blob), image.words(ends.tolist())]
    head += [image.add(np.array(mask, np.uint8).tobytes()) if mask is not None else 0]
    head += [skipped, 0, 0, 0]
    words = list(head)
    for row, name, at in zip(rows, columns, names, strict=True):
        words += [at, len(name.encode()), *row]
    image.add(b"", 64)
    table = image.words(words)
    return bytes(image.data), table


def _column(image: Image, name: str, values: Any, n: int) -> list[int]:
    if isinstance(values, np.ndarray):
        assert len(values) == n, name
        dims = [*values.shape[1:], *[0] * (8 - values.ndim + 1)]
        offset = image.add(values.tobytes(), 64)
        return [CODES[values.dtype], 0, values.ndim - 1, *dims, offset, 0, 0]
    sample = next((v for v in values if v is not None), b"")
    spans: list[int] = []
    shapes: list[int] = []
    for value in values:
        data = value.tobytes() if isinstance(value, np.ndarray) else value
        data = data.encode() if isinstance(data, str) else data
        spans += (
            [0, -1] if data is None else [image.add(data, 1 + 7 * (data is not value)), len(data)]
        )
        shape = value.shape if isinstance(value, np.ndarray) else ()
        shapes += [len(shape), *shape, *[0] * (8 - len(shape))]
    if isinstance(sample, np.ndarray):
        return [CODES[sample.dtype], 1, 0, *[0] * 8, image.words(spans), image.words(shapes), 0]
    code = 13 if isinstance(sample, str) else 0
    return [code, 1, 0, *[0] * 8, image.words(spans), 0, 0]


class FakeBinding:
    """pybind over an epoch of `samples` numbers."""

    def __init__(self, samples: int = 20) -> None:
        self.samples = samples
        self.snapshot = f"snapshot-of-{samples}"
        self.opened: list[dict[str, Any]] = []
        self.started: list[dict[str, Any]] = []
        self.released: list[int] = []
        self.closed: list[int] = []
        self.fail_at: dict[int, str] = {}  # n-th call of Next -> "code|message"
        self.silent = False
        self.choice: dict[str, Any] = {"shuffle": "global"}  # where the shuffle is left to it
        self.skipped = 0
        self._calls = 0
        self._run: list[tuple[bytes, int]] = []
        self._fds: dict[int, int] = {}
        self._free: list[int] = []

    def order(self, epoch: int) -> list[int]:
        """The samples of an epoch in their order."""
        seed = self.opened[-1]["seed"] if self.opened else 0
        order = list(range(self.samples))
        if not self.opened or self.opened[-1]["shuffle"] != "none":
            random.Random(seed * 1000 + epoch).shuffle(order)
        return order

    def pybind_Version(self) -> str:
        return "fake"

    def pybind_Open(self, config: str) -> int:
        self.opened.append(json.loads(config))
        return len(self.opened)

    def pybind_Start(self, stream: int, iteration: str) -> int:
        run = json.loads(iteration)
        self.started.append(run)
        config = self.opened[-1]
        if run["snapshot"] not in ("", self.snapshot):
            raise RuntimeError("snapshot_changed|the data has changed")
        if run["position"] > self.samples:
            raise RuntimeError("bad_request|start position past the end")
        order, size, world = self.order(run["epoch"]), config["batch_size"], run["world_size"]
        self._run = []
        firsts = range(run["position"], self.samples, size * world)
        for number, first in enumerate(firsts):
            left = min(size * world, self.samples - first)
            if config["drop_last"] and left < size * world:
                break
            mine = number % run["workers"] == run["worker"]
            if mine:
                self._run.append(self._batch(order, first, left, run["rank"], world))
        return 0

    def _batch(
        self, order: list[int], first: int, left: int, rank: int, world: int
    ) -> tuple[bytes, int]:
        mask = None
        if left >= world:
            begin, end = first + left * rank // world, first + left * (rank + 1) // world
        elif rank < left:
            begin, end = first + rank, first + rank + 1
        else:
            begin, end, mask = first, first + 1, [False]
        numbers = np.array(order[begin:end], np.int64)
        return slot_image(
            {"x": numbers, "raw": [b"%d" % i for i in numbers]},
            [f"{i:06}" for i in numbers],
            index=len(self._run),
            start=begin,
            following=first + left,
            mask=mask,
            skipped=self.skipped,
        )

    def pybind_Next(self, stream: int, timeout_ms: int) -> int:
        if stream in self.closed:
            raise RuntimeError("closed|this stream is closed")
        self._calls += 1
        if self._calls in self.fail_at:
            raise RuntimeError(self.fail_at[self._calls])
        if self.silent:
            return -2
        if not self._run:
            return -1
        data, table = self._run.pop(0)
        slot = self._free.pop() if self._free else len(self._fds)
        if slot not in self._fds:
            self._fds[slot] = os.memfd_create(f"fake-{slot}")
        os.ftruncate(self._fds[slot], max(len(data), 4096))
        os.pwrite(self._fds[slot], data, 0)
        return slot << 48 | table

    def pybind_Release(self, stream: int, slot: int) -> int:
        self.released.append(slot)
        self._free.append(slot)
        return 0

    def pybind_SlotFd(self, stream: int, slot: int) -> int:
        return self._fds[slot]

    def pybind_SlotSize(self, stream: int, slot: int) -> int:
        return os.fstat(self._fds[slot]).st_size

    def pybind_Stats(self, stream: int) -> str:
        config = self.opened[-1]
        order: dict[str, Any] = (
            {"sources": [self._order_of(s) for s in config["mixture"]["sources"]]}
            if "mixture" in config
            else dict(self._order_of(config))
        )
        return json.dumps({"snapshot": self.snapshot, "skipped_keys": ["a", "b"], "order": order})

    def _order_of(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if not given.get("shuffle"):
            return self.choice
        return {name: given[name] for name in ("shuffle", "slices", "window") if name in given}

    def pybind_Close(self, stream: int) -> int:
        self.closed.append(stream)
        return 0

    def __del__(self) -> None:
        for fd in self._fds.values():
            os.close(fd)


class FakeClient:
    """Answers the one question that a dataset asks over HTTP."""

    binding: FakeBinding

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def stream_info(self, request: Mapping[str, Any]) -> dict[str, Any]:
        step = request["batch_size"] * request["world_size"]
        whole, rest = divmod(self.binding.samples, step)
        batches = whole + (rest > 0 and not request["drop_last"])
        return {
            "samples": self.binding.samples,
            "batches": batches,
            "snapshot": self.binding.snapshot,
            "map": {},
        }

"""Servers of the SDK behind real targets: they do what the same functions do on the targets."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import Cluster
from shardstream import Client, ShardstreamError
from shardstream._dataset import IterableDataset
from shardstream.etl import _values, serving

SOURCE = "ss://train/shard-*.tar"
WORKER = Path(__file__).parents[2] / "etl" / "worker"

SAMPLE = """
import random

import numpy as np

def transform(sample, scale=1):
    number = int(sample["cls"])
    if number % 50 == 7:
        raise ValueError(f"{number} is no good")
    return {
        "number": number * scale,
        "drawn": random.random(),
        "noise": np.random.random(3),
        "text": f"<{sample['__key__']}>",
        "bin": sample["bin"],
    }
"""

BATCH = """
import numpy as np

def transform(samples, scale=1):
    numbers = [int(s["cls"]) for s in samples]
    if any(n % 50 == 7 for n in numbers):
        raise ValueError("one is no good")
    seeds = [np.random.default_rng(s["__seed__"]).random(4) for s in samples]
    return {
        "number": np.array(numbers) * scale,
        "noise": np.stack(seeds),
        "text": [f"<{s['__key__']}>" for s in samples],
    }
"""


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


def function_of(source: str) -> Any:
    """The function, as the file of a container would define it."""
    names: dict[str, Any] = {}
    exec(compile(source, "function.py", "exec"), names)
    return names["transform"]


def rows(etl: str) -> dict[str, dict[str, object]]:
    """Every sample of an epoch that came through, by key."""
    found: dict[str, dict[str, object]] = {}
    with IterableDataset(
        SOURCE, batch_size=16, timeout=60, seed=3, etl=etl, on_error="skip"
    ) as dataset:
        for batch in dataset:
            for place, key in enumerate(batch["__key__"]):
                found[key] = {
                    name: plain(column[place])
                    for name, column in batch.items()
                    if name != "__key__"
                }
    return found


def plain(value: Any) -> object:
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize(("level", "source"), [("sample", SAMPLE), ("batch", BATCH)])
def test_a_server_does_what_the_function_does_on_a_target(
    client: Client, level: Any, source: str
) -> None:
    client.etl.create("here", source, level=level, args={"scale": 2})
    want = rows("here")
    assert len(want) > 200
    with serving(function_of(source), level=level) as url:
        client.etl.create("there", url=url, level=level, args={"scale": 2})
        assert rows("there") == want
    client.etl.delete("here")
    client.etl.delete("there")


def test_an_exception_in_a_server_reaches_the_reader(client: Client) -> None:
    def broken(data: bytes, why: str = "too dark") -> bytes:
        raise ValueError(why)

    with serving(broken) as url:
        client.etl.create("broken", url=url)
        client.bucket("train").put("object", b"data")
        with pytest.raises(ShardstreamError) as caught:
            client.bucket("train").get("object", etl="broken", etl_args={"why": "too bright"})
    assert "ValueError: too bright" in str(caught.value)
    assert "ss://train/object" in str(caught.value)
    assert "raise ValueError(why)" in str(caught.value)
    client.bucket("train").delete("object")
    client.etl.delete("broken")


@pytest.fixture
def worker_values() -> Iterator[Any]:
    """The module by which the targets' own workers encode values."""
    sys.path.insert(0, str(WORKER))
    try:
        yield importlib.import_module("shardstream_worker.values")
    finally:
        sys.path.remove(str(WORKER))


VALUES: list[object] = [
    b"", b"abc", bytearray(b"x"), memoryview(b"y"), "", "größer", True, False, 0, -5,
    2**63 - 1, -(2**63),
    1.5, float("inf"), np.uint8(3), np.int64(-3), np.float16(1), np.float32(2), np.bool_(True),
    np.arange(6).reshape(2, 3), np.arange(6, dtype=np.float32).reshape(2, 3).T, np.zeros((0, 4)),
    np.arange(4, dtype=">u2"), np.zeros((1,) * 8, np.int8), np.zeros((1,) * 9, np.int8),
    np.array(["x"]), np.array([1 + 2j]), None, [1], (1,), {"a": 1}, ...,
    2**63, -(2**63) - 1, "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_are_encoded_as_workers_encode_them(worker_values: Any, value: object) -> None:
    def outcome(encode: Any) -> tuple[object, ...]:
        try:
            dtype, shape, data = encode("field", value)[:3]
        except TypeError as error:
            return (str(error),)
        return dtype, tuple(shape), bytes(data)

    assert outcome(_values.encode) == outcome(worker_values.encode_value)

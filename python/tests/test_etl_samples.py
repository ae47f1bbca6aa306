"""Samples over HTTP: the codec, and functions at levels sample and batch."""

from __future__ import annotations

import http.client
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etlclients import SAMPLES, message, peer, served
from shardstream.etl import _samples, serving
from shardstream.etl._samples import Fault, Sample


def read(data: bytes, **limits: int) -> list[Sample | Fault]:
    return list(_samples.read_message(io.BytesIO(data), **limits))


VALUES: list[object] = [
    b"",
    b"x" * 3_000_000,
    "größer",
    True,
    -(2**63),
    2.5,
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    np.zeros((0, 3), np.float32),
    np.float16(1.5),
    np.array([True, False]),
    np.arange(12.0).reshape(3, 4).T,
    np.arange(5, dtype=">i4"),
]


def test_values_arrive_as_they_were_sent() -> None:
    sent = Sample("a/b", 2**64 - 1, {f"f{n}": value for n, value in enumerate(VALUES)})
    (got,) = read(message([sent]))
    assert isinstance(got, Sample)
    assert (got.key, got.seed) == ("a/b", 2**64 - 1)
    for want, value in zip(sent.fields.values(), got.fields.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(value), np.asarray(want))
        if isinstance(want, (bytes, str, bool)):
            assert type(value) is type(want)


def test_without_numpy_an_array_is_a_memoryview(monkeypatch: pytest.MonkeyPatch) -> None:
    data = message([Sample("k", 0, {"a": np.arange(6, dtype=np.int32).reshape(2, 3)})])
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    (got,) = read(data)
    assert isinstance(got, Sample)
    view = got.fields["a"]
    assert isinstance(view, memoryview)
    assert str(view.tolist()) == "[[0, 1, 2], [3, 4, 5]]"
    (again,) = read(message([got]))
    assert isinstance(again, Sample)
    assert isinstance(again.fields["a"], memoryview)
    assert again.fields["a"].tolist() == view.tolist()


def test_short_and_damaged_messages_are_refused() -> None:
    data = message([Sample("key", 1, {"a": b"abc", "n": 5}), Sample("other")])
    for size in range(len(data)):
        with pytest.raises(_samples.MalformedError):
            read(data[:size])
    with pytest.raises(_samples.MalformedError, match="follow the end"):
        read(data + b"x")
    with pytest.raises(_samples.MalformedError, match="more than the 1"):
        read(data, max_samples=1)
    with pytest.raises(_samples.MalformedError, match="11 bytes where 10"):
        read(data, max_payload=10)
    draw = random.Random(1)
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            read(bytes(damaged), max_payload=1 << 20)
        except _samples.MalformedError:
            continue


def double(sample: dict[str, Any], times: int = 2) -> dict[str, object]:
    assert isinstance(sample["__seed__"], int)
    if sample["n"] < 0:
        raise ValueError(f"{sample['__key__']} is negative")
    return {"__key__": sample["__key__"], "n": sample["n"] * times, "txt": sample["txt"]}


def test_samples_are_transformed_one_by_one() -> None:
    many = [Sample(f"s{n}", 0, {"n": n, "txt": b"t" * n}) for n in range(200)]
    with serving(double, level="sample") as url, peer(url) as one:
        out = one.samples(*many)
        assert [s.fields for s in out if isinstance(s, Sample)] == [
            {"n": 2 * n, "txt": b"t" * n} for n in range(200)
        ]
        assert all(isinstance(s, Sample) and s.key == "" for s in out), "keys are kept"
        (scaled,) = one.samples(many[3], args={"times": 10})
        assert isinstance(scaled, Sample)
        assert scaled.fields["n"] == 30
        assert one.samples() == []


def test_a_sample_that_fails_takes_no_other_with_it() -> None:
    with serving(double, level="sample") as url, peer(url) as one:
        good, bad, also = one.samples(
            Sample("a", 0, {"n": 1, "txt": "t"}),
            Sample("b", 0, {"n": -1, "txt": "t"}),
            Sample("c", 0, {"n": 3, "txt": b"t"}),
        )
    assert isinstance(good, Sample)
    assert isinstance(bad, Fault)
    assert bad.summary == "ValueError: b is negative"
    assert "is negative" in bad.traceback
    assert isinstance(also, Sample)


@pytest.mark.parametrize(
    ("result", "want"),
    [
        ([1], "must return a dict"),
        ({"a": [1, 2]}, "numpy.asarray"),
        ({"a": None}, "NoneType"),
        ({"a": 2**64}, "beyond 64 bits"),
        ({"a/b": 1}, "named 'a/b'"),
        ({1: 1}, "keys must be str"),
        ({"__mask__": 1}, "reserved"),
        ({"__key__": "../x"}, "can't name a sample"),
        ({"__key__": 3}, "must be str"),
        ({"a": np.array(["x"])}, "dtype <U1"),
    ],
)
def test_what_can_not_travel_is_a_fault_of_the_sample(result: object, want: str) -> None:
    with serving(lambda sample: result, level="sample") as url, peer(url) as one:
        (fault,) = one.samples(Sample("k", 0, {}))
    assert isinstance(fault, Fault)
    assert fault.summary.startswith("TypeError: the function returned")
    assert want in fault.summary


def test_keys_may_be_changed() -> None:
    with (
        serving(lambda s: {"__key__": "new/" + s["__key__"]}, level="sample") as url,
        peer(url) as one,
    ):
        (got,) = one.samples(Sample("k"))
    assert isinstance(got, Sample)
    assert got.key == "new/k"


def draws(sample: dict[str, Any]) -> dict[str, object]:
    return {"py": random.random(), "np": np.random.random(3)}


def test_what_is_drawn_is_the_samples_own() -> None:
    a, b = Sample("a", 11), Sample("b", 2**63 + 12)
    with serving(draws, level="sample") as url, peer(url) as one:
        first = one.samples(a, b)
        second = one.samples(b, a)
    for x, y in zip(first, reversed(second), strict=True):
        assert isinstance(x, Sample)
        assert isinstance(y, Sample)
        assert x.fields["py"] == y.fields["py"]
        np.testing.assert_array_equal(x.fields["np"], y.fields["np"])
    random.seed(11)
    assert isinstance(first[0], Sample)
    assert first[0].fields["py"] == random.random(), "as a worker of a target draws"


def stack(samples: list[dict[str, Any]], scale: int = 1) -> dict[str, object]:
    if any(s["n"] < 0 for s in samples):
        raise ValueError("one is negative")
    images = np.stack([np.full((40, 50), s["n"] * scale, np.float32) for s in samples])
    return {
        "image": images,
        "cls": np.array([s["n"] for s in samples]),
        "txt": [s["__key__"] for s in samples],
    }


def test_a_batch_is_transformed_at_once() -> None:
    calls: list[int] = []

    def counted(samples: list[dict[str, Any]], scale: int = 1) -> dict[str, object]:
        calls.append(len(samples))
        return stack(samples, scale)

    with serving(counted, level="batch") as url, peer(url) as one:
        out = one.samples(*(Sample(f"s{n}", n, {"n": n}) for n in range(20)), args={"scale": 3})
    assert calls == [20]
    for n, row in enumerate(out):
        assert isinstance(row, Sample)
        image = row.fields["image"]
        assert isinstance(image, np.ndarray)
        assert image.shape == (40, 50)
        assert image.dtype == np.float32
        assert (image == 3 * n).all()
        assert (row.fields["cls"], row.fields["txt"]) == (n, f"s{n}")


def test_in_a_batch_that_raises_only_the_guilty_fail() -> None:
    with serving(stack, level="batch") as url, peer(url) as one:
        out = one.samples(*(Sample(f"s{n}", 0, {"n": n}) for n in (1, -2, 3)))
    assert [type(item) for item in out] == [Sample, Fault, Sample]
    assert isinstance(out[1], Fault)
    assert out[1].summary == "ValueError: one is negative"


@pytest.mark.parametrize(
    ("result", "want"),
    [
        ([{}], "returns a dict of columns"),
        ({"a": [1]}, "1 rows for column 'a', 2 samples"),
        ({"a": np.zeros(3)}, "3 rows for column 'a'"),
        ({"a": b"xx"}, "bytes for column 'a'"),
        ({"a": np.float32(1)}, "0 rows"),
        ({"__key__": ["a"]}, "1 rows for column '__key__'"),
    ],
)
def test_columns_that_do_not_fit_are_faults(result: object, want: str) -> None:
    with serving(lambda samples: result, level="batch") as url, peer(url) as one:
        for fault in one.samples(Sample("a"), Sample("b")):
            assert isinstance(fault, Fault)
            assert want in fault.summary


def test_keys_and_rows_of_a_batch() -> None:
    def function(samples: list[dict[str, Any]]) -> dict[str, object]:
        return {"__key__": ["a", "new"], "list": [b"1", np.arange(3)], "none": np.zeros((2, 0))}

    with serving(function, level="batch") as url, peer(url) as one:
        a, b = one.samples(Sample("a"), Sample("b"))
    assert isinstance(a, Sample)
    assert isinstance(b, Sample)
    assert (a.key, b.key) == ("", "new")
    assert a.fields["list"] == b"1"
    np.testing.assert_array_equal(b.fields["list"], [0, 1, 2])
    assert np.asarray(a.fields["none"]).shape == (0,)


def test_a_damaged_request_is_refused_or_broken_off() -> None:
    data = message([Sample("a", 0, {"n": 1, "txt": b"t" * 300_000})] * 3)
    with serving(double, level="sample") as url:
        with peer(url) as one:
            answer = one.ask("POST", "/samples", data[:20], SAMPLES)
            assert answer.status == 400
            assert one.ask("POST", "/samples", data, SAMPLES).status == 200
        with peer(url) as one, pytest.raises(http.client.IncompleteRead):
            one.ask("POST", "/samples", data[:-1], SAMPLES)


def test_a_file_is_served_at_a_level(tmp_path: Path) -> None:
    source = "def transform(sample):\n    return {'n': sample['n'] + 1}\n"
    with served(source, tmp_path, "--level", "sample") as (path, _), peer(path) as one:
        (got,) = one.samples(Sample("k", 0, {"n": 1}))
    assert isinstance(got, Sample)
    assert got.fields == {"n": 2}

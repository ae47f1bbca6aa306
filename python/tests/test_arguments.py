"""Bad input is refused where it is given, by an error that says what was expected."""

from __future__ import annotations

from typing import Any

import pytest
from shardstream import Client, _dataset

GOOD = "ss://bucket/train-*.tar"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be 1 or more"),
        ({"batch_size": -1}, ValueError, "batch_size"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer"),
        ({"batch_size": True}, TypeError, "batch_size"),
        ({"shuffle": "random"}, ValueError, "shuffle must be one of"),
        ({"shuffle": True}, ValueError, "shuffle"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"rank": 0}, ValueError, "together"),
        ({"world_size": 2}, ValueError, "together"),
        ({"rank": 0, "world_size": 0}, ValueError, "world_size must be 1 or more"),
        ({"rank": 2, "world_size": 2}, ValueError, "ranks are 0 to 1"),
        ({"rank": -1, "world_size": 2}, ValueError, "rank must be 0 or more"),
        ({"on_error": "ignore"}, ValueError, "on_error must be one of"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"prefetch": 0}, ValueError, "prefetch"),
        ({"etl": print}, TypeError, "etl.create"),
        ({"fields": "jpg"}, TypeError, r"\['jpg'\]"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        _dataset.IterableDataset(GOOD, **{"batch_size": 4, **arguments})


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("train.tar", ValueError),
        ("s3://bucket/x", ValueError),
        ("ss://", ValueError),
        ("ss:///x", ValueError),
        ([], ValueError),
        ([GOOD, "x"], ValueError),
        ([1], TypeError),
    ],
)
def test_bad_sources(source: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="ss://"):
        _dataset.IterableDataset(source, batch_size=4)


@pytest.mark.parametrize("endpoint", ["localhost:7070", "ftp://x", "http://"])
def test_bad_endpoints(endpoint: str) -> None:
    with pytest.raises(ValueError, match="SHARDSTREAM_ENDPOINT"):
        Client(endpoint)


def test_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDSTREAM_ENDPOINT", "http://elsewhere:1")
    assert Client().endpoint == "http://elsewhere:1"
    assert _dataset.IterableDataset(GOOD, batch_size=1).endpoint == "http://elsewhere:1"


@pytest.mark.parametrize(
    ("rank", "world"), [("0", None), (None, "2"), ("2", "2"), ("x", "2"), ("0", "0")]
)
def test_bad_rank_variables_are_named(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, world: str | None
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    dataset = _dataset.IterableDataset(GOOD, batch_size=1)
    with pytest.raises(ValueError, match="WORLD_SIZE"):
        next(iter(dataset))

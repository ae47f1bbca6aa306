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
        ({"rank": 0, "world_size": 2**63}, ValueError, "world_size must be 2147483647 or less"),
        ({"on_error": "ignore"}, ValueError, "on_error must be one of"),
        ({"max_errors": 3}, ValueError, "on_error='skip'"),
        ({"max_errors": -1, "on_error": "skip"}, ValueError, "max_errors must be 0 or more"),
        ({"max_errors": 1.0, "on_error": "skip"}, ValueError, "between 0.0 and 1.0"),
        ({"max_errors": 0.0, "on_error": "skip"}, ValueError, "between 0.0 and 1.0"),
        ({"max_errors": 2.5, "on_error": "skip"}, ValueError, "an int, not 2.5"),
        ({"max_errors": "1%", "on_error": "skip"}, TypeError, "max_errors"),
        ({"max_errors": True, "on_error": "skip"}, TypeError, "max_errors"),
        ({"max_errors": 2**70, "on_error": "skip"}, ValueError, "max_errors must be"),
        ({"etl": "a", "etl_args": 5}, TypeError, "etl_args is a dict"),
        ({"etl": "a", "etl_args": {1: 2}}, TypeError, "1 is no name"),
        ({"etl": "a", "etl_args": {"x": {2}}}, TypeError, "plain JSON values"),
        ({"etl": "a", "etl_args": {"x": float("nan")}}, ValueError, "plain JSON values"),
        ({"etl": "a,b", "etl_args": {"x": 2}}, TypeError, "names 2 transformations"),
        ({"etl": ["a", "b"], "etl_args": [None]}, ValueError, "1 entries for 2 transformations"),
        ({"etl_args": {"x": 2}}, ValueError, "without an etl"),
        ({"etl": ["a", 5]}, TypeError, "5 is not a string"),
        ({"pad": "yes"}, TypeError, "pad must be True or False"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"timeout": float("inf")}, ValueError, "timeout must be more than 0"),
        ({"timeout": 1e30}, ValueError, "timeout must be more than 0"),
        ({"timeout": None}, TypeError, "timeout must be a number of seconds"),
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds"),
        ({"batch_size": 2**70}, ValueError, "batch_size"),
        ({"drop_last": "no"}, TypeError, "drop_last must be True or False"),
        ({"endpoint": "nowhere"}, ValueError, "http://host:port"),
        ({"endpoint": 9500}, TypeError, "endpoint must be a string"),
        ({"token": "two\nlines"}, ValueError, "token must be printable"),
        ({"token": 5}, TypeError, "token must be a string"),
        ({"prefetch": 0}, ValueError, "prefetch"),
        ({"max_batch_bytes": 1000}, ValueError, "max_batch_bytes"),
        ({"max_batch_bytes": 1 << 40}, ValueError, "max_batch_bytes"),
        ({"etl": print}, TypeError, "etl.create"),
        ({"fields": "jpg"}, TypeError, r"\['jpg'\]"),
        ({"fields": [1]}, TypeError, "1 is not a string"),
        ({"fields": 3}, TypeError, "list of names, not 3"),
        ({"fields": []}, ValueError, "fields is empty"),
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
        (None, TypeError),
        (b"ss://bucket/", TypeError),
    ],
)
def test_bad_sources(source: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="ss://"):
        _dataset.IterableDataset(source, batch_size=4)


@pytest.mark.parametrize(
    "endpoint", ["localhost:7070", "ftp://x", "http://", "http://host:port", "http://[::1"]
)
def test_bad_endpoints(endpoint: str) -> None:
    with pytest.raises(ValueError, match="SHARDSTREAM_ENDPOINT"):
        Client(endpoint)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"timeout": None}, TypeError, "timeout"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"retry_for": "x"}, TypeError, "retry_for"),
        ({"retry_for": -1}, ValueError, "retry_for"),
        ({"endpoint": 9500}, TypeError, "endpoint"),
        ({"token": "two\nlines"}, ValueError, "token"),
    ],
)
def test_bad_arguments_of_a_client(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Client(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"requirements": "numpy"}, TypeError, r"\['numpy'\]"),
        ({"workers": -1}, ValueError, "workers must be 0 or more"),
        ({"workers": "two"}, TypeError, "workers"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": None}, TypeError, "timeout"),
    ],
)
def test_bad_arguments_of_a_transformation(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Client("http://127.0.0.1:1").etl.create("name", "def transform(s): return s", **arguments)


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

"""Sources: objects that are samples, and lists of objects."""

from __future__ import annotations

import io
import json
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shardstream as ss
from clusters import Cluster, shard, tar_of
from PIL import Image
from shardstream._dataset import IterableDataset

COUNT = 60


@pytest.fixture(scope="module")
def bucket(cluster: Cluster) -> Iterator[ss.Bucket]:
    """Objects cats/000.png.. of one colour each, and shards 0.tar.. of 5 samples."""
    with ss.Client(cluster.endpoint, timeout=20) as client:
        bucket = client.bucket("sources").create()
        for number in range(COUNT):
            out = io.BytesIO()
            Image.new("RGB", (4, 3), (number, 0, 9)).save(out, "PNG")
            bucket.put(f"cats/{number:03}.png", out.getvalue())
        bucket.put("cats/README", b"no sample")
        for number in range(6):
            bucket.put(f"{number}.tar", shard(5 * number, 5))
        bucket.put("odd [1] {a}.tar", shard(30, 5))
        yield bucket


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


def dataset(source: Any, **options: Any) -> IterableDataset:
    return IterableDataset(source, **{"batch_size": 8, "shuffle": None, "timeout": 20, **options})


def keys(ds: IterableDataset) -> list[str]:
    with ds:
        return [key for batch in ds for key in batch["__key__"]]


@pytest.mark.parametrize("name", ["__key__", "__mask__", "__source__"])
def test_a_field_with_a_name_of_the_batchs_own_is_refused(bucket: ss.Bucket, name: str) -> None:
    bucket.put("reserved.tar", tar_of({f"0.{name}": b"1", "0.cls": b"2"}))
    with pytest.raises(ss.RequestError, match=f'field "{name}"'):
        keys(dataset("ss://sources/reserved.tar"))
    assert keys(dataset("ss://sources/reserved.tar", fields=["cls"])) == ["0"]
    bucket.delete("reserved.tar")


@pytest.mark.parametrize("shuffle", ["global", "window", "shards", None])
def test_objects_are_samples(bucket: ss.Bucket, shuffle: Any) -> None:
    ds = dataset(
        "ss://sources/cats/", samples="objects", shuffle=shuffle, decode={"png": "rgb8"}, seed=3
    )
    seen = []
    for batch in ds:
        assert set(batch) == {"__key__", "png"}
        assert batch["png"].shape[1:] == (3, 4, 3)
        numbers = [int(key.removeprefix("cats/")) for key in batch["__key__"]]
        assert np.asarray(batch["png"])[:, 0, 0, 0].tolist() == numbers
        seen += numbers
    assert sorted(seen) == list(range(COUNT))
    assert (seen == sorted(seen)) == (shuffle is None)
    assert ds.info()["samples"] == ds.info()["shards"] == COUNT
    state = ds.state_dict()
    ds.load_state_dict(state)
    assert "samples='objects'" in repr(ds)


def test_objects_resume(bucket: ss.Bucket) -> None:
    options = {"samples": "objects", "shuffle": "global", "seed": 5}
    whole = keys(dataset("ss://sources/cats/*.png", **options))
    with dataset("ss://sources/cats/*.png", **options) as ds:
        running = iter(ds)
        first = [key for _ in range(3) for key in next(running)["__key__"]]
        state = ds.state_dict()
    again = dataset("ss://sources/cats/*.png", **options)
    again.load_state_dict(json.loads(json.dumps(state)))
    assert first + keys(again) == whole


def test_a_long_list_keeps_its_order(bucket: ss.Bucket) -> None:
    names = [f"ss://sources/cats/{number:03}.png" for number in range(COUNT)]
    random.Random(1).shuffle(names)
    ds = dataset(names, samples="objects")
    assert "57 more]" in repr(ds)
    assert [f"ss://sources/{key}.png" for key in keys(ds)] == names


def test_missing_names_are_counted_and_named(bucket: ss.Bucket) -> None:
    names = [f"ss://sources/cats/{number:03}.png" for number in range(2 * COUNT)]
    with pytest.raises(ss.NotFoundError, match=r"60 of the 120 .* ss://sources/cats/060\.png, "):
        next(iter(dataset(names, samples="objects")))
    with pytest.raises(ss.RequestError, match="has no extension"):
        next(iter(dataset("ss://sources/cats/README", samples="objects")))
    with pytest.raises(ss.NotFoundError, match="samples=objects"):
        next(iter(dataset("ss://sources/cats/")))


LIST = """# the training set
ss://sources/3.tar

{"url": "ss://sources/0.tar", "weight": 2}
  ss://sources/odd [1] {a}.tar
"""
LISTED = [f"{number:06}" for first in (15, 0, 30) for number in range(first, first + 5)]


def test_manifests_in_the_cluster_and_beside_the_program(bucket: ss.Bucket, tmp_path: Path) -> None:
    bucket.put("lists/train.txt", LIST.encode())
    local = tmp_path / "train.txt"
    local.write_text(LIST)
    for source in ("@ss://sources/lists/train.txt", local, [local]):
        assert keys(dataset(source)) == LISTED
    more = [local, "ss://sources/1.tar", "=ss://sources/2.tar"]
    assert keys(dataset(more)) == [*LISTED, *(f"{number:06}" for number in range(5, 15))]
    copy = pickle.loads(pickle.dumps(dataset(local)))
    local.unlink()
    assert keys(copy) == LISTED, "a dataset has read its list when it was made"


def test_the_command_line_reads_manifests(
    bucket: ss.Bucket, cluster: Cluster, tmp_path: Path
) -> None:
    bucket.put("lists/train.txt", LIST.encode())
    local = tmp_path / "more.txt"
    local.write_text("ss://sources/1.tar\n")
    out = cluster.run("stream", "@ss://sources/lists/train.txt", f"@{local}", "--json")
    assert json.loads(out)["epochs"][0]["samples"] == 20
    out = cluster.run(
        "stream", "ss://sources/cats/", "--samples", "objects", "--decode", "png=gray8", "--json"
    )
    epoch = json.loads(out)["epochs"][0]
    assert (epoch["samples"], epoch["bytes"]) == (COUNT, COUNT * 12)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "lists no objects"),
        ("# x\n", "lists no objects"),
        ("ss://b/x\nx.tar", "line 2"),
        ("ss://b/x/", "line 1"),
        ('{"uri": 1}', "line 1"),
        ('{"url":', "line 1 can't be read"),
        ("\udcff", "line 1"),
    ],
)
def test_local_manifests_that_are_none(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=says):
        dataset(path)


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing"):
        dataset(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"pathlib\.Path"):
        dataset("list.txt")
    for source in ("@list.txt", "@ss://b", "=ss://b/", "@ss://b/x/", "", "b/x.tar"):
        with pytest.raises(ValueError, match="source"):
            dataset(source)
    with pytest.raises(ValueError, match="no source"):
        dataset([])
    with pytest.raises(TypeError, match="source"):
        dataset(5)
    with pytest.raises(ValueError, match="samples must be one of"):
        dataset("ss://b/x", samples="files")

"""Augmentation by real clusters: the same pixels on one target and on three, and after a resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from clusters import Cluster, tar_of
from pictures import picture
from shardstream import Client, ETLError, SampleETLError
from shardstream import transforms as T
from shardstream._dataset import IterableDataset

SHARDS, EACH = 5, 13
CHAIN = T.Compose(
    [
        T.Decode("jpg"),
        T.RandomResizedCrop(32),
        T.RandomHorizontalFlip(),
        T.RandomVerticalFlip(),
        T.RandomRotation(15, "bilinear"),
        T.ColorJitter(0.4, 0.4, 0.4, 0.1),
    ]
)
LEVELS = ("sample", "batch")


def photos(first: int) -> bytes:
    members: dict[str, bytes] = {}
    for number in range(first, first + EACH):
        size = (60 + number % 7, 90 - number % 11)
        members[f"{number:04}.jpg"] = picture(*size, seed=number)
        members[f"{number:04}.cls"] = b"%d" % (number % 10)
    return tar_of(members)


def furnish(cluster: Cluster) -> None:
    with Client(cluster.endpoint, timeout=20) as client:
        bucket = client.bucket("photos").create()
        for shard in range(SHARDS):
            bucket.put(f"train-{shard}.tar", photos(shard * EACH))
        for level in LEVELS:
            client.etl.create(f"augment-{level}", CHAIN, level=level)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of one target."""
    cluster = Cluster(tmp_path_factory.mktemp("one"), targets=1)
    try:
        furnish(cluster)
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def three(cluster: Cluster) -> Cluster:
    """The usual cluster, of three targets."""
    furnish(cluster)
    return cluster


def dataset(cluster: Cluster, level: str, **options: Any) -> IterableDataset:
    given = {"batch_size": 8, "seed": 11, "etl": f"augment-{level}", "decode": {"cls": "int"}}
    source = "ss://photos/train-*.tar"
    return IterableDataset(
        source, endpoint=cluster.endpoint, rank=0, world_size=1, timeout=30, **{**given, **options}
    )


def rows(batches: Any) -> list[tuple[str, int, bytes]]:
    """(key, label, pixels) of each sample, in order."""
    found: list[tuple[str, int, bytes]] = []
    for batch in batches:
        images = np.asarray(batch["image"])
        assert images.shape == (len(batch["__key__"]), 32, 32, 3) and images.dtype == np.uint8
        labels = np.asarray(batch["cls"]).tolist()
        found += zip(batch["__key__"], labels, [i.tobytes() for i in images], strict=True)
    return found


def test_levels_batches_and_clusters_make_the_same_pixels(one: Cluster, three: Cluster) -> None:
    want = rows(dataset(one, "sample"))
    assert [key for key, _, _ in sorted(want)] == [f"{n:04}" for n in range(SHARDS * EACH)]
    assert all(label == int(key) % 10 for key, label, _ in want)
    assert len({pixels for _, _, pixels in want}) == len(want)
    for cluster in (one, three):
        for level in LEVELS:
            assert rows(dataset(cluster, level)) == want
            assert rows(dataset(cluster, level, batch_size=64)) == want
            assert rows(dataset(cluster, level, batch_size=1)) == want


def test_epochs_and_seeds_draw_anew(three: Cluster) -> None:
    with dataset(three, "batch") as ds:
        first, second = dict_of(rows(ds)), dict_of(rows(ds))
    other = dict_of(rows(dataset(three, "batch", seed=12)))
    for key, pixels in first.items():
        assert len({pixels, second[key], other[key]}) == 3


def dict_of(found: list[tuple[str, int, bytes]]) -> dict[str, bytes]:
    return {key: pixels for key, _, pixels in found}


@pytest.mark.parametrize("level", LEVELS)
def test_a_resumed_epoch_goes_on_with_the_same_pixels(
    one: Cluster, three: Cluster, level: str
) -> None:
    whole = dataset(three, level)
    whole.set_epoch(2)
    want = rows(whole)
    stopped = dataset(three, level)
    stopped.set_epoch(2)
    batches = iter(stopped)
    head = rows([next(batches) for _ in range(3)])
    state = stopped.state_dict()
    stopped.close()
    for cluster in (one, three):
        for other in LEVELS:
            with dataset(cluster, other) as resumed:
                # Another cluster has other versions of the shards, by which a state knows them.
                known = {} if cluster is three else {"snapshot": ""}
                resumed.load_state_dict({**state, **known})
                assert head + rows(resumed) == want


def test_a_bad_picture_fails_its_sample_alone(three: Cluster) -> None:
    good = {f"{n}.jpg": picture(40, 40, seed=n) for n in range(9)}
    with Client(three.endpoint, timeout=20) as client:
        bucket = client.bucket("damaged").create()
        bucket.put("t.tar", tar_of({**good, "9.jpg": good["0.jpg"][:-300]}))
        for level in LEVELS:
            options: dict[str, Any] = {"etl": f"augment-{level}", "endpoint": three.endpoint}
            with pytest.raises(SampleETLError, match=r"sample '9': field 'jpg' .*truncated"):
                list(IterableDataset("ss://damaged/t.tar", batch_size=10, **options))
            skipping = IterableDataset(
                "ss://damaged/t.tar", batch_size=10, on_error="skip", **options
            )
            assert sorted(k for b in skipping for k in b["__key__"]) == list("012345678")
        bucket.drop(force=True)


def test_a_definition_shows_its_chain(three: Cluster) -> None:
    with Client(three.endpoint, timeout=20) as client:
        assert "RandomResizedCrop(size=32)" in client.etl.show("augment-batch").source


def test_a_tokenizer_that_is_broken_is_refused_when_it_is_deployed(three: Cluster) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    chain = T.Compose([T.Tokenize("txt", T.TokenizerFile.of("tokenizers", b"{}"))])
    with Client(three.endpoint, timeout=20) as client, pytest.raises(ETLError):
        client.etl.create("tokenize", chain, level="batch")

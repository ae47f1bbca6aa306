"""Batches in JAX: numpy's arrays, by the recipe of docs/guides/frameworks.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shardstream as ss
from clusters import Cluster
from conftest import SAMPLES
from shardstream.numpy import IterableDataset

jax = pytest.importorskip("jax", reason="jax is not installed (make test-frameworks)")
import jax.numpy as jnp  # noqa: E402

SOURCE = "ss://train/shard-*.tar"


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


def waves(sample: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    number = int(sample["cls"])
    return {"wave": np.full((3, 4), number, np.float32), "number": number}


@pytest.fixture(scope="module", autouse=True)
def _etl(cluster: Cluster) -> None:
    with ss.Client(cluster.endpoint) as client:
        client.etl.create("waves", waves)


def source(**options: Any) -> IterableDataset:
    return IterableDataset(SOURCE, **{"batch_size": 16, "etl": "waves", "timeout": 30, **options})


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [({"drop_last": True}, SAMPLES // 16), ({"pad": True}, SAMPLES // 16 + 1)],
)
def test_one_compilation_for_all_batches_of_an_epoch(
    shapes: dict[str, bool], expected: int
) -> None:
    compiled = 0

    @jax.jit  # type: ignore[untyped-decorator, unused-ignore]
    def step(weight: Any, wave: Any, number: Any, mask: Any) -> Any:
        nonlocal compiled
        compiled += 1  # runs while tracing only
        return jax.grad(lambda w: jnp.mean(mask * (wave.sum((1, 2)) * w - number) ** 2))(weight)

    weight = jnp.zeros(())
    steps = 0
    for batch in source(**shapes):
        mask = batch.get("__mask__", np.ones(16, bool))
        weight -= 1e-7 * step(weight, batch["wave"], batch["number"], mask)
        steps += 1
    assert (compiled, steps) == (1, expected)
    assert 0 < float(weight) < 1


@pytest.mark.parametrize("place", ["asarray", "device_put"])
def test_arrays_on_the_device_stay_as_they_are(place: str) -> None:
    put = jnp.asarray if place == "asarray" else jax.device_put
    kept = []
    with source(prefetch=1) as ds:
        for batch in ds:
            kept.append((put(batch["wave"]), [int(key) for key in batch["__key__"]]))
            del batch  # the slot may be filled again as soon as nothing lies on it
    assert sum(len(numbers) for _, numbers in kept) == SAMPLES
    for wave, numbers in kept:
        np.testing.assert_array_equal(np.asarray(wave)[:, 2, 3], np.array(numbers, np.float32))


def test_a_batch_as_a_tree() -> None:
    batch = next(iter(source()))
    arrays = {name: batch[name] for name in ("wave", "number")}
    on_device = jax.device_put(arrays)
    assert jax.tree.map(lambda x: x.shape, on_device) == {"wave": (16, 3, 4), "number": (16,)}


def test_a_global_array_from_each_process_s_part() -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    ds = source(rank=jax.process_index(), world_size=jax.process_count(), drop_last=True)
    batch = next(iter(ds))
    whole = jax.make_array_from_process_local_data(sharding, batch["wave"])
    assert whole.shape == (16 * jax.process_count(), 3, 4)

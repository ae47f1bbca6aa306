"""A dataset as a tf.data.Dataset, against a real cluster."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import shardstream as ss
from clusters import Cluster, payload
from conftest import SAMPLES
from shardstream.numpy import IterableDataset, Mixture

tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed (make test-frameworks)")
from shardstream.tensorflow import dataset as tf_dataset  # noqa: E402

SOURCE = "ss://train/shard-*.tar"
ALL = [f"{number:06}" for number in range(SAMPLES)]


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


def columns(sample: dict[str, Any]) -> dict[str, Any]:
    """Every kind of column: numbers, arrays, ragged ones of one and two dimensions, text."""
    import numpy as np

    number = int(sample["cls"])
    return {
        "number": number,
        "wave": np.full((3, 4), number, np.float32),
        "text": f"sample {number}",
        "raw": sample["bin"],
        "tokens": np.arange(number % 5, dtype=np.int32),
        "boxes": np.full((number % 3, 4), number, np.float16),
        "image": np.full((1 + number % 2, 1 + number % 3, 3), number % 256, np.uint8),
    }


@pytest.fixture(scope="module", autouse=True)
def _etl(cluster: Cluster) -> None:
    with ss.Client(cluster.endpoint) as client:
        client.etl.create("columns", columns)


def source(**options: Any) -> IterableDataset:
    return IterableDataset(SOURCE, **{"batch_size": 16, "timeout": 30, **options})


def keys(batches: Any) -> list[str]:
    return [key.decode() for batch in batches for key in batch["__key__"].numpy()]


def test_columns_arrive_in_their_types() -> None:
    data = tf_dataset(source(etl="columns"))
    spec = data.element_spec
    assert spec["number"] == tf.TensorSpec([None], tf.int64)
    assert spec["wave"] == tf.TensorSpec([None, 3, 4], tf.float32)
    assert spec["tokens"] == tf.RaggedTensorSpec([None, None], tf.int32, 1)
    assert spec["boxes"] == tf.RaggedTensorSpec([None, None, 4], tf.float16, 1)
    assert spec["image"] == tf.RaggedTensorSpec([None, None, None, 3], tf.uint8, 2)
    kept = list(data)  # all at once: what is kept must stay as it is
    for batch in kept:
        for i, key in enumerate(batch["__key__"].numpy()):
            want = columns({"cls": key, "bin": payload(int(key))})
            assert batch["text"][i].numpy().decode() == want["text"]
            assert batch["raw"][i].numpy() == want["raw"]
            for name in ("number", "wave", "tokens"):
                np.testing.assert_array_equal(batch[name][i].numpy(), want[name])
            for name in ("boxes", "image"):
                got = batch[name][i]
                got = got.to_tensor() if isinstance(got, tf.RaggedTensor) else got
                np.testing.assert_array_equal(got.numpy(), want[name])
        assert batch["__mask__"].numpy().all()
    assert sorted(keys(kept)) == ALL


def test_each_pass_is_the_next_epoch() -> None:
    reference = source(seed=3)
    epochs = [[key for batch in reference for key in batch["__key__"]] for _ in range(4)]
    ds = source(seed=3)
    data = tf_dataset(ds)
    assert keys(data) == epochs[0]
    assert keys(data.prefetch(2)) == epochs[1]
    ds.set_epoch(0)
    assert keys(data.repeat(3)) == epochs[0] + epochs[1] + epochs[2]
    assert len(list(data.apply(tf.data.experimental.assert_cardinality(len(ds))))) == len(ds)


def test_resume() -> None:
    ds = source(seed=3)
    want = keys(tf_dataset(ds))
    ds.set_epoch(0)
    passing = iter(tf_dataset(ds).prefetch(2))
    head = keys(next(passing) for _ in range(4))
    state = ds.state_dict(consumed=4)
    del passing
    again = source(seed=3)
    again.load_state_dict(state)
    assert head + keys(tf_dataset(again)) == want  # making it took nothing of the position


def test_padding_is_masked() -> None:
    # 227 = 28 * 8 + 3: the last of eight ranks has no sample left in the last step.
    last = list(tf_dataset(source(batch_size=1, rank=7, world_size=8)))[-1]
    assert last["__mask__"].numpy().tolist() == [False]


def test_a_signature_chooses_columns_and_kinds() -> None:
    signature = {
        "number": tf.TensorSpec([None], tf.int64),
        "wave": tf.RaggedTensorSpec([None, None, 4], tf.float32, ragged_rank=1),
    }
    (batch,) = tf_dataset(source(etl="columns"), signature=signature).take(1)
    assert set(batch) == {"number", "wave"}
    assert batch["wave"].shape.as_list() == [16, None, 4]


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("tokens", tf.TensorSpec([None], tf.int32), "RaggedTensorSpec"),
        ("raw", tf.TensorSpec([None], tf.uint8), "tf.string"),
        ("nothing", tf.TensorSpec([None], tf.int64), "its columns"),
    ],
)
def test_a_signature_that_does_not_fit_is_named(name: str, spec: Any, words: str) -> None:
    data = tf_dataset(source(etl="columns"), signature={name: spec})
    with pytest.raises(tf.errors.OpError, match=words):
        list(data)


def gaps(sample: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    number = int(sample["cls"])
    if number % 2:
        return {"text": "odd", "tokens": np.arange(number % 7), "n": number}
    return {"n": number}


def test_missing_values(cluster: Cluster) -> None:
    with ss.Client(cluster.endpoint) as client:
        client.etl.create("gaps", gaps)
    seen = 0
    for batch in tf_dataset(source(etl="gaps", shuffle=None)):
        for n, text, tokens in zip(batch["n"], batch["text"], batch["tokens"], strict=True):
            odd = int(n) % 2
            assert text.numpy() == (b"odd" if odd else b"")
            assert len(tokens) == (int(n) % 7 if odd else 0)
            seen += 1
    assert seen == SAMPLES


def test_a_mixture() -> None:
    mixture = Mixture({SOURCE: 0.7, "ss://train/shard-0.tar": 0.3}, batch_size=16, samples=100)
    batches = list(tf_dataset(mixture))
    assert sum(len(batch["__key__"]) for batch in batches) == 100
    assert batches[0]["__source__"].dtype.is_integer


def test_keras_trains_from_it() -> None:
    ds = source(etl="columns", fields=["wave", "number"])
    data = tf_dataset(ds).map(lambda batch: (batch["wave"], batch["number"] % 2))
    data = data.apply(tf.data.experimental.assert_cardinality(len(ds)))
    model = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(2)])
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(data, epochs=2, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 2


def test_torch_s_dataset_works_too() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    data = tf_dataset(ss.IterableDataset(SOURCE, batch_size=16, etl="columns"))
    assert sorted(keys(data)) == ALL


def test_errors_of_the_dataset_are_told() -> None:
    with pytest.raises(ss.NotFoundError):
        tf_dataset(IterableDataset("ss://train/none-*.tar", batch_size=4, timeout=5))
    with pytest.raises(TypeError, match="not list"):
        tf_dataset([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="signature="):
        tf_dataset(source(batch_size=500, drop_last=True))


def test_importing_shardstream_imports_no_tensorflow() -> None:
    script = "import shardstream, sys; shardstream.Client; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

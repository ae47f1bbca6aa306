"""A dataset's batches as a `tf.data.Dataset`.

>>> import shardstream.tensorflow
>>> from shardstream.numpy import IterableDataset
>>> source = IterableDataset("ss://digits/train-*.tar", batch_size=256, etl="augment")
>>> data = shardstream.tensorflow.dataset(source).prefetch(2)
>>> data = data.map(lambda batch: (batch["image"], batch["cls"]))
>>> model.fit(data, epochs=10, shuffle=False)  # shuffled by the cluster

Importing this imports tensorflow.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ._batch import Array, Batch, BytesColumn
from ._dataset import IterableDataset
from ._epochs import Plan

__all__ = ["dataset"]


def dataset(source: IterableDataset, *, signature: Mapping[str, Any] | None = None) -> Any:
    """The batches of a dataset as a `tf.data.Dataset` of dicts.

    For a batch of N samples:

    * ``"__key__"``: tf.string ``[N]``; so are columns of bytes and of text, empty where a sample
      has none.
    * arrays of one shape: ``[N, *shape]`` in their dtype.
    * arrays of different shapes: a `tf.RaggedTensor`, with an empty row where a sample has none.
    * ``"__mask__"``: tf.bool ``[N]``, False for padding. Always there, for all elements of a
      `tf.data.Dataset` have the same columns.

    Each pass over the result is the source's next iteration: `model.fit(data, epochs=5)` and
    `data.repeat(5)` go through five epochs, each in its own order. `source.set_epoch`,
    `source.load_state_dict` and `source.stats` apply as ever; since tf.data may read ahead, save
    ``source.state_dict(consumed=...)``. The number of elements is not declared, since a pass that
    goes on in mid-epoch is shorter; for Keras' progress bar,
    ``data.apply(tf.data.experimental.assert_cardinality(len(source)))``.

    Args:
        source: the dataset. A `shardstream.numpy.IterableDataset` spares the import of torch.
        signature: column to `tf.TensorSpec` or `tf.RaggedTensorSpec`, for the columns that are
            wanted. By default it is read from the first batch of epoch 0, on a connection of its
            own. Say it where shapes that differ in other batches may be equal in that one.

    Returns:
        A `tf.data.Dataset`, whose iteration raises tf.errors.OpError with the text of the
        dataset's own exception.

    Raises:
        TypeError: source is no shardstream dataset.
        ValueError: the first batch has no signature: there is none, or numbers are missing in it.
        ShardstreamError: as iterating does, while the first batch is read.
    """
    if not isinstance(source, IterableDataset):
        raise TypeError(f"source must be a shardstream dataset, not {type(source).__name__}")
    specs = _signature_of(_first_batch(source)) if signature is None else dict(signature)

    def elements() -> Iterator[dict[str, Any]]:
        for batch in source:
            yield _element(batch, specs)

    return tf.data.Dataset.from_generator(elements, output_signature=specs)


def _first_batch(source: IterableDataset) -> Batch:
    """The first batch of epoch 0, by a copy of the dataset: its own state stays as it is."""
    with copy.copy(source) as probe:
        probe.prefetch = 1
        probe._course.set(Plan(0, 0))
        batch = next(iter(probe), None)
    if batch is None:
        raise ValueError("an epoch has no batch to read a signature from: pass signature=")
    return batch


# -- what a column is -------------------------------------------------------------------------


def _signature_of(batch: Batch) -> dict[str, Any]:
    specs = {name: _spec_of(name, values) for name, values in batch.items()}
    return {**specs, "__mask__": tf.TensorSpec([None], tf.bool)}


def _spec_of(name: str, values: Any) -> Any:
    if isinstance(values, BytesColumn):
        return tf.TensorSpec([None], tf.string)
    if not isinstance(values, list):
        array = np.asarray(values)
        return tf.TensorSpec([None, *array.shape[1:]], tf.as_dtype(array.dtype))
    present = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in present):
        return tf.TensorSpec([None], tf.string)
    arrays = [np.asarray(value) for value in present]
    dims = {array.ndim for array in arrays}
    if len(dims) != 1 or 0 in dims:
        raise ValueError(
            f"column {name!r} has numbers for some samples and none for others, or arrays of "
            f"{sorted(dims)} dimensions: let the transformation return it equally for all samples, "
            "or leave the column out with fields= or signature="
        )
    shapes = [array.shape for array in arrays]
    ragged = len(shapes[0])  # dimensions that differ; the trailing ones that don't are fixed
    while ragged > 1 and len({shape[ragged - 1] for shape in shapes}) == 1:
        ragged -= 1
    shape = [None] * (1 + ragged) + list(shapes[0][ragged:])
    return tf.RaggedTensorSpec(shape, tf.as_dtype(arrays[0].dtype), ragged_rank=ragged)


# -- values -----------------------------------------------------------------------------------


def _element(batch: Batch, specs: Mapping[str, Any]) -> dict[str, Any]:
    element = {}
    for name, spec in specs.items():
        if name not in batch and name != "__mask__":
            raise ValueError(f"a batch has no column {name!r}; its columns: {sorted(batch)}")
        values: Any = batch[name] if name in batch else np.ones(len(batch["__key__"]), np.bool_)
        if isinstance(spec, tf.RaggedTensorSpec):
            element[name] = _ragged(values, spec)
        elif spec.dtype == tf.string:
            element[name] = tf.constant([_text(value) for value in values], tf.string)
        elif isinstance(values, (list, BytesColumn)):
            raise ValueError(
                f"column {name!r} is not one array of dtype {spec.dtype.name} in this batch, since "
                "its samples differ in shape, or some have none: pass signature= with a "
                "tf.RaggedTensorSpec (numbers) or tf.string (bytes) for it"
            )
        else:
            element[name] = np.asarray(values)
    return element


def _text(value: Any) -> bytes:
    if isinstance(value, str):  # names of members are bytes, not always UTF-8
        return value.encode("utf-8", "surrogateescape")
    return b"" if value is None else bytes(value)


def _ragged(values: Sequence[Any], spec: Any) -> Any:
    """One RaggedTensor of the samples' arrays."""
    rank, inner = spec.ragged_rank, tuple(spec.shape[spec.ragged_rank + 1 :])
    empty = np.zeros((0,) * rank + inner, spec.dtype.as_numpy_dtype)
    arrays = [empty if value is None else np.asarray(value) for value in values]
    lengths = [
        np.concatenate([np.full(int(np.prod(a.shape[:level])), a.shape[level]) for a in arrays])
        for level in range(rank)
    ]
    flat = np.concatenate([_rows(array, rank) for array in arrays])
    return tf.RaggedTensor.from_nested_row_lengths(flat, lengths, validate=False)


def _rows(array: Array, rank: int) -> Array:
    """The array with its first dimensions, the ragged ones, run together."""
    return array.reshape(int(np.prod(array.shape[:rank])), *array.shape[rank:])

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from fakes import slot_image
from shardstream import BytesColumn, InternalError
from shardstream._batch import read

KEYS = ["a/0001", "a/0002", "ü"]


def batch_of(columns: dict[str, Any], **options: Any) -> dict[str, Any]:
    data, table = slot_image(columns, KEYS, **options)
    return read(bytearray(data), table)[1]


@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
        *("float16", "float32", "float64"),
    ],
)
@pytest.mark.parametrize("shape", [(), (2,), (2, 0, 3), (4, 3, 2)])
def test_dense_columns(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(3 * int(np.prod(shape))).reshape(3, *shape).astype(dtype)
    found = batch_of({"x": values})["x"]
    assert found.dtype == values.dtype
    assert found.flags.writeable
    np.testing.assert_array_equal(found, values)


def test_keys_and_no_mask() -> None:
    batch = batch_of({})
    assert batch == {"__key__": KEYS}


def test_keys_that_are_not_utf8_survive() -> None:
    data, table = slot_image({}, ["a"])
    raw = bytearray(data)
    raw[raw.index(b"a")] = 0xFF
    keys = read(raw, table)[1]["__key__"]
    assert keys[0].encode("utf-8", "surrogateescape") == b"\xff"


def test_mask_marks_padding() -> None:
    mask = batch_of({}, mask=[True, True, False])["__mask__"]
    assert mask.dtype == np.bool_
    assert mask.tolist() == [True, True, False]


def test_bytes_are_views_and_missing_ones_are_none() -> None:
    column = batch_of({"jpg": [b"one", None, b""]})["jpg"]
    assert isinstance(column, BytesColumn)
    assert [None if v is None else bytes(v) for v in column] == [b"one", None, b""]
    assert column.tolist() == [b"one", None, b""]
    assert isinstance(column[0], memoryview)
    assert column[-1] == memoryview(b"")
    assert column[:2] == [b"one", None]
    assert (len(column), column.nbytes) == (3, 3)
    with pytest.raises(IndexError):
        column[3]


def test_bytes_view_shares_the_slot() -> None:
    data, table = slot_image({"jpg": [b"one"]}, ["k"])
    memory = bytearray(data)
    view = read(memory, table)[1]["jpg"][0]
    memory[memory.index(b"one")] = ord("O")
    assert bytes(view) == b"One"


def test_bytes_column_pickles_by_value() -> None:
    column = batch_of({"jpg": [b"one", None, b"three"]})["jpg"]
    copy = pickle.loads(pickle.dumps(column))
    assert copy == column
    assert copy.tolist() == [b"one", None, b"three"]


def test_bytes_column_is_no_registered_sequence() -> None:
    # torch's default_convert would take it apart, byte by byte.
    from collections.abc import Sequence

    assert not isinstance(batch_of({"jpg": [b"1"] * 3})["jpg"], Sequence)


def test_text() -> None:
    assert batch_of({"txt": ["one", None, "drei ü"]})["txt"] == ["one", None, "drei ü"]


def test_ragged_arrays() -> None:
    values = [np.ones((2, 3), np.float32), None, np.array(7, np.float32)]
    found = batch_of({"x": values})["x"]
    assert found[1] is None
    for have, want in ((found[0], values[0]), (found[2], values[2])):
        assert have.dtype == np.float32
        np.testing.assert_array_equal(have, want)


def test_convert_is_applied_to_every_array() -> None:
    data, table = slot_image(
        {"d": np.zeros(1), "r": [np.zeros(2)], "b": [b""]}, ["k"], mask=[False]
    )
    batch = read(bytearray(data), table, lambda array: ("tensor", array.shape))[1]
    assert batch["d"] == ("tensor", (1,))
    assert batch["r"] == [("tensor", (2,))]
    assert batch["__mask__"] == ("tensor", (1,))


def test_header_positions() -> None:
    data, table = slot_image({}, ["k"], index=3, start=40, following=48, skipped=2)
    head = read(bytearray(data), table)[0]
    assert (head.index, head.position, head.next_position, head.skipped) == (3, 40, 48, 2)


def test_a_table_of_another_version_is_refused() -> None:
    data, table = slot_image({}, ["k"])
    memory = bytearray(data)
    memory[table] ^= 1
    with pytest.raises(InternalError, match="do not fit"):
        read(memory, table)

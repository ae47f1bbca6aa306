"""Decoding on the cluster, held against the usual libraries."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import shardstream as ss
from clusters import Cluster, tar_of
from PIL import Image
from shardstream._dataset import IterableDataset

BUCKET = "decode"


@pytest.fixture(scope="module")
def bucket(cluster: Cluster) -> Iterator[ss.Bucket]:
    with ss.Client(cluster.endpoint, timeout=20) as client:
        yield client.bucket(BUCKET).create(exist_ok=True)


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


def put(bucket: ss.Bucket, name: str, samples: dict[str, dict[str, bytes]]) -> str:
    """Store a shard and return its address."""
    members = {
        f"{key}.{field}": data for key, fields in samples.items() for field, data in fields.items()
    }
    bucket.put(name, tar_of(members))
    return f"ss://{BUCKET}/{name}"


def stream(address: str, decode: Any, **options: Any) -> list[dict[str, Any]]:
    options = {"batch_size": 64, "shuffle": None, "timeout": 20, **options}
    with IterableDataset(address, decode=decode, **options) as ds:
        return list(ds)


def column(bucket: ss.Bucket, values: list[bytes], how: Any, field: str = "f") -> dict[str, Any]:
    """The one batch of samples that have one field each."""
    samples = {f"{number:06}": {field: value} for number, value in enumerate(values)}
    (batch,) = stream(put(bucket, "column.tar", samples), {field: how})
    return batch


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """An image of some mode, smooth enough for JPEG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 4), dtype=np.uint8), "RGBA")
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    return image.convert("RGB").quantize(16) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_is_what_pillow_makes_of_it(bucket: ss.Bucket, mode: str) -> None:
    images = [noise(mode, 31, 17, seed) for seed in range(5)]
    files = [saved(image, "PNG") for image in images]
    for how, target in {"rgb8": "RGB", "gray8": "L", "rgba8": "RGBA"}.items():
        got = column(bucket, files, how)["f"]
        assert got.dtype == np.uint8
        want = np.stack([np.asarray(Image.open(io.BytesIO(f)).convert(target)) for f in files])
        assert np.array_equal(got, want), how


@pytest.mark.parametrize(
    "options", [{"subsampling": n} for n in (0, 1, 2)] + [{"progressive": True}]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_close_to_what_pillow_makes_of_it(
    bucket: ss.Bucket, mode: str, options: dict[str, Any]
) -> None:
    files = [
        saved(noise(mode, 67 + seed, 45, seed), "JPEG", quality=85, **options) for seed in range(3)
    ]
    for got, file in zip(column(bucket, files, "rgb8")["f"], files, strict=True):
        want = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        assert got.shape == want.shape
        assert np.abs(got.astype(int) - want).max() <= 4
    for got, file in zip(column(bucket, files, "gray8")["f"], files, strict=True):
        want = np.asarray(Image.open(io.BytesIO(file)).convert("L"))
        assert np.abs(got.astype(int) - want).mean() < 1


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP"])
def test_other_formats_are_told_by_their_content(bucket: ss.Bucket, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    files = [saved(noise("RGB", 20, 10, seed), kind, **options) for seed in range(3)]
    got = column(bucket, files, "rgb8", field="jpg")["jpg"]
    want = np.stack([np.asarray(Image.open(io.BytesIO(f)).convert("RGB")) for f in files])
    assert np.array_equal(got, want)


def test_whole_numbers(bucket: ss.Bucket) -> None:
    rng = random.Random(1)
    values = [
        rng.randint(-(2 ** rng.randint(0, 63)), 2 ** rng.randint(0, 63) - 1) for _ in range(64)
    ]
    got = column(bucket, [f" {value}\n".encode() for value in values], "int")["f"]
    assert got.dtype == np.int64
    assert got.tolist() == values


def test_numbers(bucket: ss.Bucket) -> None:
    rng = random.Random(2)
    values = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(63)] + [float("inf")]
    got = column(bucket, [repr(value).encode() for value in values], "float")["f"]
    assert got.dtype == np.float64
    assert np.array_equal(got, values, equal_nan=True)


def test_text_and_documents(bucket: ss.Bucket) -> None:
    texts = ["a cat", "", "日本 \x00 é"]
    assert column(bucket, [text.encode() for text in texts], "text")["f"] == texts
    documents = [{"a": [1, 2.5, None, {"b": "é"}]}, [], 7, "x", None, True]
    values = [json.dumps(document).encode() for document in documents]
    assert column(bucket, values, "json")["f"] == documents


@pytest.mark.parametrize(
    "dtype",
    ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"],
)
def test_npy_is_what_numpy_saved(bucket: ss.Bucket, dtype: str) -> None:
    arrays = [np.arange(24).reshape(2, 3, 4).astype(dtype) + np.array(n, dtype) for n in range(4)]
    files = []
    for array in arrays:
        out = io.BytesIO()
        np.save(out, array)
        files.append(out.getvalue())
    got = column(bucket, files, "npy")["f"]
    assert got.dtype == np.dtype(dtype)
    assert np.array_equal(got, np.stack(arrays))


def test_members_of_json_are_columns(bucket: ss.Bucket) -> None:
    documents = [
        {"label": n, "box": [n, 0.5, 1, 2], "tags": list(range(n)),
         "meta": {"id": n * n, "ok": n > 1}, "text": f"né{n}", "rest": {"n": [n]}, "unused": "x"}
        for n in range(5)
    ]  # fmt: skip
    how = {
        "label": "int", "box": "float", "tags": "int", "meta": {"id": "int", "ok": "bool"},
        "text": "text", "rest": "json",
    }  # fmt: skip
    batch = column(bucket, [json.dumps(d).encode() for d in documents], how, field="json")
    assert set(batch) == {
        "__key__", "json.label", "json.box", "json.tags", "json.meta.id", "json.meta.ok",
        "json.text", "json.rest",
    }  # fmt: skip
    assert batch["json.label"].dtype == np.int64
    assert batch["json.label"].tolist() == list(range(5))
    assert batch["json.box"].dtype == np.float64
    assert batch["json.box"].tolist() == [d["box"] for d in documents]
    assert [tags.tolist() for tags in batch["json.tags"]] == [d["tags"] for d in documents]
    assert batch["json.meta.id"].tolist() == [n * n for n in range(5)]
    assert batch["json.meta.ok"].dtype == np.bool_
    assert batch["json.meta.ok"].tolist() == [n > 1 for n in range(5)]
    assert batch["json.text"] == [d["text"] for d in documents]
    assert batch["json.rest"] == [d["rest"] for d in documents]


def test_fixed_and_ragged_beside_bytes(bucket: ss.Bucket) -> None:
    samples = {
        f"{n:03}": {
            "png": saved(noise("RGB", 8 + n % 2, 8, n), "PNG"),
            "cls": str(n).encode(),
            "bin": bytes(n),
        }
        for n in range(20)
    }
    address = put(bucket, "mixed.tar", samples)
    (batch,) = stream(address, {"png": "rgb8", "cls": "int"})
    assert [image.shape for image in batch["png"]] == [(8, 8 + n % 2, 3) for n in range(20)]
    assert batch["cls"].tolist() == list(range(20))
    assert batch["bin"].tolist() == [bytes(n) for n in range(20)]
    (batch,) = stream(address, {"cls": "int"}, fields=["cls"])
    assert set(batch) == {"__key__", "cls"}


def test_what_cannot_be_decoded_is_raised_or_skipped(bucket: ss.Bucket) -> None:
    samples = {f"{n:03}": {"cls": b"cat" if n == 3 else str(n).encode()} for n in range(6)}
    address = put(bucket, "bad.tar", samples)
    with pytest.raises(ss.SampleDecodeError, match=r'"003".*"cat" is not a whole number') as caught:
        stream(address, {"cls": "int"})
    assert caught.value.code == "decode_failed"
    assert isinstance(caught.value, ss.SampleError)
    (batch,) = stream(address, {"cls": "int"}, on_error="skip")
    assert batch["cls"].tolist() == [0, 1, 2, 4, 5]
    with pytest.raises(ss.SampleDecodeError, match="not an image"):
        stream(address, {"cls": "rgb8"})


def test_unknown_decoders_and_fields_are_refused(bucket: ss.Bucket) -> None:
    address = put(bucket, "good.tar", {"a": {"cls": b"1"}})
    with pytest.raises(ss.RequestError, match=r"no decoder \"rgb\".*gray8, int, json, npy, rgb8"):
        stream(address, {"cls": "rgb"})
    with pytest.raises(ss.RequestError, match='"png", which is not among the fields'):
        stream(address, {"png": "rgb8"}, fields=["cls"])
    with pytest.raises(ss.NotFoundError, match='"png"'):
        stream(address, {"png": "rgb8"})
    address = put(bucket, "members.tar", {"a": {"json": b'{"b": 1}'}})
    with pytest.raises(ss.NotFoundError, match=r'"json\.c" "json\.d\.e"'):
        stream(address, {"json": {"c": "int", "d": {"e": "text"}}})


@pytest.mark.parametrize("decode", ["rgb8", ["rgb8"], {"jpg": None}, {"jpg": {}}, {1: "int"}])
def test_wrong_descriptions_are_refused_at_once(decode: Any) -> None:
    with pytest.raises(TypeError, match="decode"):
        IterableDataset("ss://b/x.tar", batch_size=1, decode=decode)


def test_the_command_line_decodes_too(bucket: ss.Bucket, cluster: Cluster) -> None:
    address = put(bucket, "cli.tar", {"a": {"cls": b"1", "json": b'{"n": [1, 2]}'}})
    out = cluster.run("stream", address, "--decode", "cls=int,json:n=float", "--json")
    assert json.loads(out)["epochs"][0]["bytes"] == 8 + 16

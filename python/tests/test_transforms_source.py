"""Chains of transforms travel as text, and make there what they make here."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import picture
from shardstream import transforms as T
from shardstream._source import pickle_of, source_of
from shardstream.transforms import CenterCrop, RandomRotation

LIMIT = 3
CROP = T.Compose([T.Decode("jpg"), RandomRotation((-10, 10.5), fill=(1, 2, 3)), T.CenterCrop(9)])
ROTATE = RandomRotation(5)

#: Runs source text as a worker does, in a Python that has no shardstream.
WORKER = """
import pathlib, sys, types
sys.modules["shardstream"] = None
module = types.ModuleType("shardstream_etl")
sys.modules["shardstream_etl"] = module
source, entry, data, out = sys.argv[1:]
exec(compile(pathlib.Path(source).read_text(), "name.py", "exec", dont_inherit=True), vars(module))
sample = {"__key__": "k", "__seed__": 77, "jpg": pathlib.Path(data).read_bytes(), "txt": b"text"}
made = getattr(module, entry)(sample)
pathlib.Path(out).write_bytes(made["image"].tobytes())
"""


def limit(sample: dict[str, Any]) -> dict[str, Any]:
    sample["limit"] = LIMIT
    return sample


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@dataclass(frozen=True)
class Invert(T.Transform):
    """A transform of the user's own."""

    p: float = 0.5
    field: str = "image"

    def apply(self, sample: dict[str, Any], draws: T.Draws) -> None:
        if draws.chance(self.p):
            sample[self.field] = 255 - np.asarray(sample[self.field])


def by_the_module(sample: dict[str, Any]) -> dict[str, Any]:
    sample["image"] = np.full(3, T.Draws(sample["__seed__"]).integer(200), np.uint8)
    return sample


def by_a_class(sample: dict[str, Any]) -> dict[str, Any]:
    return T.Compose([T.Decode("jpg"), ROTATE, CenterCrop(12)])(sample)


def by_an_instance(sample: dict[str, Any]) -> dict[str, Any]:
    return CROP(sample)


CHAIN = T.Compose(
    [
        T.Decode(["png", "jpg"]),
        T.RandomResizedCrop((20, 30), ratio=(1, 2)),
        T.ColorJitter(0.2, hue=(-0.1, 0.1)),
        limit,
        Invert(0.9),
        T.RandomHorizontalFlip(),
        T.Tokenize("txt", letters, length=9),
    ]
)


def module_of(source: str) -> types.ModuleType:
    module = types.ModuleType("shardstream_etl")
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, "x.py", "exec", dont_inherit=True), vars(module))
    finally:
        sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "_Packed"]
    return module


def sample_of(photo: bytes) -> dict[str, Any]:
    return {"__key__": "k", "__seed__": 77, "jpg": photo, "txt": b"text"}


def run_alone(entry: str, photo: bytes, folder: Path) -> bytes:
    """The pixels that the source in the folder makes in a Python without shardstream."""
    (folder / "jpg").write_bytes(photo)
    subprocess.run(
        [sys.executable, "-E", "-W", "error", "-c", WORKER, folder / "source", entry,
         folder / "jpg", folder / "out"],
        check=True, timeout=60,
    )  # fmt: skip
    return (folder / "out").read_bytes()


@pytest.mark.parametrize("function", [CHAIN, CROP, by_the_module, by_a_class, by_an_instance])
def test_a_python_without_shardstream_makes_the_same(function: Any, tmp_path: Path) -> None:
    photo = picture(200, 150)
    source, entry = source_of(function, None)
    (tmp_path / "source").write_text(source)
    assert run_alone(entry, photo, tmp_path) == function(sample_of(photo))["image"].tobytes()


def test_the_text_says_what_differs_from_the_defaults_only() -> None:
    *_, made, loaded = source_of(CROP, None)[0].splitlines()
    assert loaded == "chain.load()"
    assert made == (
        "chain = shardstream_transforms.Compose(transforms=[shardstream_transforms.Decode("
        "field='jpg'), shardstream_transforms.RandomRotation(degrees=(-10, 10.5, ), "
        "fill=(1, 2, 3, )), shardstream_transforms.CenterCrop(size=9)])"
    )


def test_what_it_makes_is_what_was_given() -> None:
    source, entry = source_of(CROP, None)
    steps = getattr(module_of(source), entry).transforms
    assert [repr(step) for step in steps] == [repr(step) for step in CROP.transforms]


def test_a_tokenizer_travels_with_it() -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 3, "b": 4}, "a"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    source, entry = source_of(T.Compose([T.Tokenize("txt", words, length=None)]), None)
    made = getattr(module_of(source), entry)({"txt": b"b a b c"})
    assert made["tokens"].tolist() == [4, 3, 4, 3]


def test_a_step_named_as_the_chain_is() -> None:
    def chain(sample: dict[str, Any]) -> dict[str, Any]:
        return {"image": sample["jpg"]}

    source, entry = source_of(T.Compose([chain]), None)
    assert entry == "chain_"
    assert module_of(source).chain_({"jpg": b"x"}) == {"image": b"x"}


def test_what_can_not_travel_is_refused() -> None:
    secret = object()

    def closure(sample: dict[str, Any]) -> dict[str, Any]:
        return {"x": secret}

    for step in (closure, lambda sample: sample, T.Tokenize("txt", lambda text: [1])):
        with pytest.raises(ValueError, match=r"closure|lambda"):
            source_of(T.Compose([step]), None)
    with pytest.raises(ValueError, match="entry is for source text"):
        source_of(CROP, "chain")


def test_a_package_that_is_missing_is_an_error_when_the_source_is_loaded() -> None:
    source, _ = source_of(CROP, None)
    script = f"import sys\nsys.modules['PIL'] = None\n{source.partition(chr(10))[2]}"
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True)
    assert done.returncode != 0
    assert "the transforms need pillow, which is not installed in" in done.stderr
    assert "requirements=['numpy', 'pillow']" in done.stderr
    assert CROP.requirements == ("numpy", "pillow")


def test_a_closure_in_a_chain_travels_by_cloudpickle(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
    level = 7

    def closure(sample: dict[str, Any]) -> dict[str, Any]:
        return {"image": sample["image"] // level}

    photo = picture(200, 150)
    chain = T.Compose([T.Decode("jpg"), T.RandomResizedCrop(20), closure])
    pickled, _ = pickle_of(chain, None)
    (tmp_path / "source").write_text(
        f"import base64, pickle\nmade = pickle.loads(base64.b64decode({pickled!r}))\n"
    )
    assert run_alone("made", photo, tmp_path) == chain(sample_of(photo))["image"].tobytes()

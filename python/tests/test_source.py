"""What of a user's function can travel as text, and what is refused by name."""

from __future__ import annotations

import functools
import io
import json as js
import linecache
import os.path
import sys
import types
import xml.dom.minidom
from collections.abc import Callable
from math import sqrt as root
from pathlib import Path
from random import randint
from typing import Any

import numpy as np
import pytest
from numpy import sqrt
from numpy.random import normal
from shardstream._source import source_of

SCALE = 2.5
NAMES = ("a", "b")
MEANS = [0.485, 0.456, 0.406]
TABLE = {"cat": (1, {2, 3}), "dog": (), None: frozenset({b"x"})}
WORST = [float("inf"), -float("inf"), float("nan")]
MODEL = object()
LOOP: list[Any] = []
LOOP.append(LOOP)


def helper(value: float) -> float:
    return root(value) * SCALE


def recursive(n: int) -> int:
    return 1 if n == 0 else n * recursive(n - 1)


def transform(sample: dict[str, Any], options: Path | None = None) -> dict[str, np.ndarray]:
    def inner(x: float) -> float:
        return helper(x) + len(NAMES)

    blob = io.BytesIO(js.dumps({"n": recursive(3)}).encode())
    scaled: np.ndarray = np.array([inner(v) for v in sample["values"]], np.float32)
    return {
        "x": scaled,
        "blob": np.frombuffer(blob.read(), np.uint8),
        "base": np.array(os.path.basename("a/b") == "b"),
        "dom": np.array(xml.dom.minidom.Document is not None),
    }


def uses_containers(_: object) -> dict[str, Any]:
    return {"means": MEANS, "table": TABLE, "worst": WORST}


def uses_methods_of_modules(_: object) -> list[Any]:
    return [randint(3, 3), normal(2.0, 0.0), sqrt(4.0), __name__]


def uses_a_loop(_: object) -> Any:
    return LOOP


def uses_model(sample: dict[str, Any]) -> Any:
    return (MODEL, sample)


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args) + 1

    return wrapper


@decorated
def increment(x: int) -> int:
    return x + SCALE  # type: ignore[return-value]


class Holder:
    def method(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample


def run(source: str, entry: str, *args: Any) -> Any:
    module = types.ModuleType("elsewhere")
    sys.modules[module.__name__] = module  # as a node's worker loads it
    exec(compile(source, "<etl>", "exec"), module.__dict__)
    return getattr(module, entry)(*args)


def test_a_function_travels_with_what_it_uses() -> None:
    source, entry = source_of(transform, None)
    assert entry == "transform"
    result = run(source, entry, {"values": [4.0, 9.0]})
    assert result["x"].tolist() == [7.0, 9.5]
    assert result["blob"].tobytes() == b'{"n": 6}'
    assert "import xml.dom.minidom" in source
    assert "SCALE = 2.5" in source
    assert "MODEL" not in source


def test_a_decorator_travels_too() -> None:
    source, entry = source_of(increment, None)
    assert run(source, entry, 1) == 4.5


def test_containers_of_constants_travel() -> None:
    result = run(*source_of(uses_containers, None), None)
    assert result["means"] == MEANS
    assert result["table"] == TABLE
    assert repr(result["worst"]) == repr(WORST)


def test_methods_that_modules_offer_as_functions_travel_as_imports() -> None:
    source, entry = source_of(uses_methods_of_modules, None)
    assert "from random import randint" in source
    assert "from numpy.random import normal" in source
    assert run(source, entry, None) == [3, 2.0, 2.0, "elsewhere"]


def test_a_nested_function_without_a_closure() -> None:
    def local(sample: int) -> int:
        return sample * 2

    source, entry = source_of(local, None)
    assert run(source, entry, 4) == 8


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda sample: sample, "lambda"),
        (uses_model, "'MODEL' .object."),
        (uses_a_loop, "'LOOP' .list."),
        (Holder().method, "not a plain function"),
        (Holder.method, "is a method"),
        (functools.partial(transform), "not a plain function"),
        (len, "not a plain function"),
        (3, "not a plain function"),
    ],
)
def test_what_can_not_travel(function: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        source_of(function, None)


def test_closures_are_named() -> None:
    mean = 0.5

    def transform(sample: float) -> float:
        return sample - mean

    with pytest.raises(ValueError, match="closure over mean"):
        source_of(transform, None)


def test_functions_typed_at_a_prompt() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def transform(sample): return sample", namespace)
    with pytest.raises(ValueError, match="prompt"):
        source_of(namespace["transform"], None)


def test_classes_of_notebook_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    cells = (
        "SCALE = 3\n",
        "from dataclasses import dataclass\n",
        "@dataclass\nclass Box:\n    side: int = 1\n",
        "@dataclass\nclass Box:\n    side: int = 2\n\n    def area(self):\n"
        "        return self.side * SCALE\n\nafter = object()\n",
        "def transform(sample):\n    return Box().area() + sample\n",
    )
    for number, cell in enumerate(cells):  # as IPython runs them
        name = f"<cell {number}>"
        monkeypatch.setitem(
            linecache.cache, name, (len(cell), None, cell.splitlines(keepends=True), name)
        )
        exec(compile(cell, name, "exec"), notebook.__dict__)
    assert run(*source_of(notebook.transform, None), 10) == 16


def test_text_and_files(tmp_path: Path) -> None:
    text = "def augment(sample):\n    return sample\n"
    assert source_of(text, "augment") == (text, "augment")
    assert source_of(text, None) == (text, "transform")
    file = tmp_path / "etl.py"
    file.write_text(text)
    assert source_of(file, "augment") == (text, "augment")
    assert source_of(str(file), None) == (text, "transform")
    with pytest.raises(FileNotFoundError):
        source_of(tmp_path / "missing.py", None)
    with pytest.raises(ValueError, match="entry"):
        source_of(transform, "transform")

from __future__ import annotations

import ast
from pathlib import Path

import shardstream


def test_every_public_name_is_exported_and_reachable() -> None:
    for name in shardstream.__all__:
        assert getattr(shardstream, name) is not None
    assert sorted(shardstream.__all__) == list(shardstream.__all__)


def test_all_lists_what_the_front_door_imports() -> None:
    tree = ast.parse(Path(shardstream.__file__).read_text())
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for alias in node.names
    }
    assert {n for n in imported if n != "TorchDataset"} == set(shardstream.__all__)


def test_every_module_but_those_of_frameworks_is_private() -> None:
    modules = {path.stem for path in Path(shardstream.__file__).parent.glob("*.py")}
    assert {m for m in modules if not m.startswith("_")} == {
        "numpy",
        "tensorflow",
        "torch",
    }


def test_unknown_names_raise_attribute_error() -> None:
    assert not hasattr(shardstream, "Dataset")

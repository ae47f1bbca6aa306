from __future__ import annotations

import ast
from pathlib import Path

import shardstream
from shardstream import etl


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


def test_the_server_sdk_exports_what_it_documents() -> None:
    folder = Path(etl.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} >= {"__init__", "__main__"}
    assert all(path.stem.startswith("_") for path in folder.glob("*.py"))
    assert etl.__all__ == ["serve", "serving"]
    assert all(callable(getattr(etl, name)) for name in etl.__all__)


def test_unknown_names_raise_attribute_error() -> None:
    assert not hasattr(shardstream, "Dataset")

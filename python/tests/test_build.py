"""The build hook's switch: which backends a wheel's command has."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
INTERFACE = "hatchling.builders.hooks.plugin.interface"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hook's module; hatchling itself is there only while a wheel is built."""
    parts = INTERFACE.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
    monkeypatch.setattr(sys.modules[INTERFACE], "BuildHookInterface", object, raising=False)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (None, ""),
        ("", ""),
        ("all", ""),
        ("none", "no_s3,no_gcs,no_azure,no_hdfs"),
        ("s3", "no_gcs,no_azure,no_hdfs"),
        ("GCS, s3", "no_azure,no_hdfs"),
        ("s3,gcs,azure,hdfs", ""),
    ],
)
def test_backends_by_variable(
    hook: Any, monkeypatch: pytest.MonkeyPatch, value: str | None, tags: str
) -> None:
    monkeypatch.delenv("SHARDSTREAM_BUILD_BACKENDS", raising=False)
    if value is not None:
        monkeypatch.setenv("SHARDSTREAM_BUILD_BACKENDS", value)
    assert hook.Build(ROOT, "0").tags() == tags


def test_unknown_backends_are_named(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDSTREAM_BUILD_BACKENDS", "s3,s4")
    with pytest.raises(hook.BuildError, match="has s4: it takes all, none, or some of s3,gcs"):
        hook.Build(ROOT, "0").tags()


def test_each_backend_has_its_tag(hook: Any) -> None:
    for name in hook.BACKENDS:
        source = ROOT / "core" / "backend" / "schemes" / f"{name}.go"
        assert source.read_text().startswith(f"//go:build !no_{name}\n")

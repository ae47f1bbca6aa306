"""Fixtures: a fake loader for tests of the package alone, a real cluster for the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes import FakeBinding, FakeClient
from shardstream import _dataset, _native


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBinding]:
    """A loader in Python in place of the native one, with 20 samples."""
    binding = FakeBinding()
    monkeypatch.setattr(_native, "_binding", binding)
    monkeypatch.setattr(FakeClient, "binding", binding, raising=False)
    monkeypatch.setattr(_dataset, "Client", FakeClient)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    yield binding

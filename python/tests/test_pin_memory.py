"""What torch's converting and pinning make of a batch: tensors are pinned, the rest stays whole."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import shardstream as ss
from clusters import Cluster, payload

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.utils.data import DataLoader, default_convert  # noqa: E402
from torch.utils.data._utils import pin_memory as pinning  # noqa: E402

pin_memory: Any = pinning.pin_memory  # what DataLoader calls for each batch
convert: Any = default_convert  # and this before
SOURCE = "ss://train/shard-*.tar"


@pytest.fixture(autouse=True)
def _endpoint(at_cluster: Cluster) -> None:
    pass


def mixed(sample: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    number = int(sample["cls"])
    return {
        "wave": np.full((3, 4), number, np.float32),
        "ragged": np.full(number % 3, number, np.uint8),
        "raw": sample["bin"],
        "text": f"sample {number}",
        **({"rare": np.full(number, 1.0)} if number % 2 else {}),
    }


@pytest.fixture(scope="module", autouse=True)
def _etl(cluster: Cluster) -> None:
    with ss.Client(cluster.endpoint) as client:
        client.etl.create("mixed", mixed)


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pinning without a GPU: copies, as cudaHostAlloc would, whose addresses are noted."""
    copies: list[int] = []

    def pin(tensor: Any) -> Any:
        copy = tensor.clone()
        copies.append(copy.data_ptr())
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    return copies


def dataset(**options: Any) -> ss.IterableDataset:
    return ss.IterableDataset(SOURCE, batch_size=16, etl="mixed", timeout=30, **options)


def test_tensors_are_pinned_and_bytes_are_not_taken_apart(pinned: list[int]) -> None:
    with dataset() as ds:
        batch = next(iter(ds))
        after = pin_memory(convert(batch))
    assert after["wave"].data_ptr() in pinned
    assert all(t is None or t.data_ptr() in pinned for t in after["ragged"] + after["rare"])
    assert torch.equal(after["wave"], batch["wave"])
    assert [t is None for t in after["rare"]] == [t is None for t in batch["rare"]]
    assert after["raw"] is batch["raw"]
    assert (after["__key__"], after["text"]) == (batch["__key__"], batch["text"])
    assert after["raw"][2] == payload(int(after["__key__"][2]))


def test_a_pinned_batch_gives_its_memory_back_at_once(pinned: list[int]) -> None:
    with dataset(prefetch=1) as ds:
        kept = []
        for batch in ds:
            kept.append(pin_memory({"wave": batch["wave"]}))
            del batch
        assert ds._stream is not None
        assert ds._stream.held == 0
    assert len(pinned) == len(kept) == 15


def test_pin_memory_where_there_is_no_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it pins nothing
        batches = list(DataLoader(dataset(), batch_size=None, pin_memory=True))
    assert sum(len(batch["__key__"]) for batch in batches) == 227


def test_pin_memory_and_a_copy_to_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    for batch in DataLoader(dataset(), batch_size=None, pin_memory=True):
        assert batch["wave"].is_pinned()
        on_gpu = batch["wave"].to("cuda", non_blocking=True)
        numbers = torch.tensor([float(key) for key in batch["__key__"]])
        assert torch.equal(on_gpu[:, 2, 3].cpu(), numbers)

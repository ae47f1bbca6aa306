"""The dataset without torch: its arrays are numpy's, whatever is installed.

`shardstream.IterableDataset` yields tensors where torch is installed, and imports it. This one is
for JAX, TensorFlow and scripts that have no use for torch.
"""

from __future__ import annotations

from ._dataset import IterableDataset

__all__ = ["IterableDataset"]

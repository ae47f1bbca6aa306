"""The datasets without torch: their arrays are numpy's, whatever is installed.

`shardstream.IterableDataset` yields tensors where torch is installed, and imports it. These are
for JAX, TensorFlow and scripts that have no use for torch.
"""

from __future__ import annotations

from ._dataset import IterableDataset
from ._mixture import Mixture

__all__ = ["IterableDataset", "Mixture"]

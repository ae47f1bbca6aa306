"""The dataset as torch knows it: `shardstream.IterableDataset` where torch is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.utils.data

from . import _dataset, _mixture


def _tensor(array: Any) -> Any:
    """A tensor on the array's memory; the array itself for a dtype that this torch lacks."""
    try:
        return torch.from_numpy(np.asarray(array))
    except TypeError:
        return array


class IterableDataset(  # noqa: D101 (the docstring is the plain class's)
    _dataset.IterableDataset,
    torch.utils.data.IterableDataset,  # type: ignore[misc, type-arg, unused-ignore]
):
    __doc__ = _dataset.IterableDataset.__doc__

    _convert: ClassVar[Callable[[Any], Any] | None] = staticmethod(_tensor)


class Mixture(_mixture.Mixture, IterableDataset):  # noqa: D101 (the plain class's)
    __doc__ = _mixture.Mixture.__doc__


__all__ = ["IterableDataset", "Mixture"]

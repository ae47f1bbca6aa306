"""Wrappers that would do once more to a dataset's batches what was done already.

A rank's batches are its own part of every step. Shared out among processes again, most of an epoch
would never be seen, and nothing would say so. And they are batches: stacked again, every shape has
a dimension too many.
"""

from __future__ import annotations

import warnings
from types import FrameType

#: Classes of accelerate (and of transformers, which has a copy) by what they do to an iterable.
_SPLITTERS = {
    "IterableDatasetShard": "hand each process every n-th batch of it",
    "DataLoaderDispatcher": "read it in process 0 alone and cut its batches up",
}


def refuse_second_split(caller: FrameType | None) -> None:
    """Raise where a caller's frame is a method of such a wrapper.

    Raises:
        RuntimeError: with the call that prepares the loader as it should be.
    """
    wrapper = None if caller is None else caller.f_locals.get("self")
    does = _SPLITTERS.get(type(wrapper).__name__)
    if does is None:
        return
    raise RuntimeError(
        f"each process gets its own part of this dataset already, and "
        f"{type(wrapper).__module__}.{type(wrapper).__name__} would {does}: give "
        "accelerator.prepare the model and the optimizer only, and prepare the loader by "
        "accelerate.data_loader.prepare_data_loader(DataLoader(dataset, batch_size=None), "
        "accelerator.device, num_processes=1, process_index=0, put_on_device=True, "
        "dispatch_batches=False); see docs/guides/frameworks.md"
    )


def warn_of_stacking(caller: FrameType | None) -> None:
    """Warn where a caller's frame is that of a DataLoader that makes batches of what it gets."""
    given = {} if caller is None else caller.f_locals
    if type(given.get("self")).__name__ != "_IterableDatasetFetcher":
        return
    collate = getattr(given.get("collate_fn"), "__name__", "")
    if given.get("auto_collation") and collate == "default_collate":
        warnings.warn(
            "this DataLoader stacks batches that are finished already, [1, N, ...], and does not "
            "know what to do with columns of bytes: give it batch_size=None",
            stacklevel=3,
        )

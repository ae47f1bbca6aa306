"""Saved states: small JSON-able dicts that say where a dataset goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ._arguments import integer
from ._epochs import MAX_EPOCH, Plan
from ._ranks import Worker

_VERSION = 1
_OF_WINDOWS = ("slices", "window")  # parts of an order that not every one has
_MAX_POSITION = 2**63 - 1
_MAX_ID = 120  # characters of a snapshot's id; those of today have 64


class Saved(NamedTuple):
    """What a state says."""

    plan: Plan
    snapshot: str  # the id of the data that the position counts in, "" where none was streamed


def document(
    saved: Saved, order: Mapping[str, Any], worker: Worker | None = None
) -> dict[str, Any]:
    """The state of a dataset, or of one DataLoader worker's share of it.

    Args:
        saved: where to go on.
        order: what the order of an epoch depends on, apart from the data.
        worker: whose share it is, if it is one's.
    """
    state = {
        "version": _VERSION,
        "snapshot": saved.snapshot,
        **order,
        "epoch": saved.plan.epoch,
        "position": saved.plan.position,
    }
    if worker is not None:
        state.update(worker=worker.number, workers=worker.count)
    return state


def read(
    state: Mapping[str, Any],
    order: Mapping[str, Any],
    check_order: Callable[[Mapping[str, Any]], None],
    worker: Worker | None,
) -> Saved:
    """Read what document() made for a dataset of the same order.

    Args:
        state: the document.
        order: of the dataset that is to go on.
        check_order: raises ValueError for another order than that.
        worker: the DataLoader worker that asks, None in the training process.

    Raises:
        ValueError: it is not a state, or that of another order or of another worker.
    """
    try:
        version, epoch, position = state["version"], state["epoch"], state["position"]
        snapshot = state["snapshot"]
        _check_kind(state, order)
        saved = {name: state[name] for name in order if name not in _OF_WINDOWS}
        saved.update((name, state[name]) for name in _OF_WINDOWS if name in state)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a state of a shardstream dataset: {error!r}") from error
    if version != _VERSION:
        raise ValueError(f"state version {version!r} is not {_VERSION}")
    check_order(saved)
    if not isinstance(snapshot, str) or len(snapshot) > _MAX_ID:
        raise ValueError(
            f"not a state of a shardstream dataset: its snapshot is {str(snapshot)[:_MAX_ID]!r}"
        )
    plan = Plan(
        integer("epoch", epoch, 0, MAX_EPOCH), integer("position", position, 0, _MAX_POSITION)
    )
    _check_worker(state, worker)
    return Saved(plan, snapshot)


def _check_kind(state: Mapping[str, Any], order: Mapping[str, Any]) -> None:
    if ("mixture" in state) != ("mixture" in order):
        kinds = ("a Mixture", "an IterableDataset")
        raise ValueError(
            "the state was saved by {}, and this is {}: they make different orders".format(
                *(kinds if "mixture" in state else kinds[::-1])
            )
        )


def _check_worker(state: Mapping[str, Any], worker: Worker | None) -> None:
    if state.get("workers") is None:
        return
    if worker is None or (worker.number, worker.count) != (state.get("worker"), state["workers"]):
        raise ValueError(
            f"this is the state of DataLoader worker {state.get('worker')} of "
            f"{state['workers']}: only a stateful loader with as many workers can use it"
        )

"""Shuffles: those that can be asked for, and those that a cluster chose where none was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

Shuffle: TypeAlias = Literal["auto", "global", "window", "shards"] | None

AUTO: Final = "auto"
SHUFFLES = (AUTO, "global", "window", "shards", None)
_NAMES = (AUTO, "global", "window", "shards", "none")
_CHOSEN = (AUTO, "global", "window")  # those that a cluster chooses, or has not chosen yet


class Chosen(NamedTuple):
    """A shuffle in full: slices and window are 0 where they are the defaults."""

    shuffle: str
    slices: int = 0
    window: int = 0

    def document(self) -> dict[str, Any]:
        """As states and requests have it."""
        document: dict[str, Any] = {"shuffle": self.shuffle}
        if self.slices:
            document["slices"] = self.slices
        if self.window:
            document["window"] = self.window
        return document


def chosen_of(document: Mapping[str, Any]) -> Chosen:
    """Read what `Chosen.document` made, or a cluster's answer.

    Raises:
        ValueError: it is no shuffle.
    """
    shuffle = document.get("shuffle")
    counts = [document.get(name, 0) for name in ("slices", "window")]
    if shuffle not in _NAMES or not all(type(n) is int and n >= 0 for n in counts):
        raise ValueError(f"not a state of a shardstream dataset: its shuffle is {document!r:.200}")
    return Chosen(str(shuffle), *counts)


def choice_in(document: Mapping[str, Any]) -> Chosen | None:
    """What a cluster chose, or may have: None for a shuffle that somebody asked for."""
    return chosen_of(document) if document.get("shuffle") in _CHOSEN else None


def write(orders: Iterable[Mapping[str, Any]]) -> str:
    """Shuffles, one of each source, as a short text."""
    return ",".join(":".join(str(part) for part in chosen_of(order)) for order in orders)


def read(text: str) -> tuple[Chosen, ...]:
    """What `write` wrote."""
    found = []
    for one in text.split(",") if text else ():
        shuffle, slices, window = one.split(":")
        found.append(Chosen(shuffle, int(slices), int(window)))
    return tuple(found)

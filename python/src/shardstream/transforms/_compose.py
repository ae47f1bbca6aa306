"""A chain of transforms, applied to one sample or to a batch of them."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._draws import Draws
from ._image import finished
from ._transform import Sample, Transform, TransformError

_MODULES = {"pillow": "PIL.Image"}  # where a package's module has another name

Step = Transform | Callable[[Sample], Any]


@dataclass(frozen=True)
class Compose:
    """Transforms one after the other; a function of a sample, and of a batch of samples.

    Given a dict it returns a dict: the fields that no transform touches are passed through, and
    pictures become arrays, uint8[height, width, 3] ([height, width] of mode "L", 4 channels of
    "RGBA"). Given a list of N dicts it returns a dict of columns: arrays of one shape and dtype
    become one array [N, *shape], anything else a list of N. Row i depends on sample i alone.

    A step may also be a function of your own that takes a sample and returns it; pictures are
    arrays there. `random` and `numpy.random` are seeded before it, for each sample.

    Args:
        transforms: the steps, in their order.
    """

    transforms: Sequence[Step]

    def __post_init__(self) -> None:
        """Check what can be checked before anything is deployed."""
        if not isinstance(self.transforms, Sequence):
            raise TypeError(f"Compose takes a list of transforms, not {self.transforms!r}")
        object.__setattr__(self, "transforms", tuple(self.transforms))
        if not self.transforms:
            raise ValueError("transforms is empty: give at least one")
        for step in self.transforms:
            if isinstance(step, (type, Compose)) or not callable(getattr(step, "apply", step)):
                raise TypeError(
                    f"a step is a transform such as Decode('jpg') or a function, not {step!r}"
                )

    @property
    def requirements(self) -> tuple[str, ...]:
        """Packages that workers need for the ready transforms in it, "pillow" for one."""
        ready = [step for step in self.transforms if isinstance(step, Transform)]
        return tuple(sorted({need for step in ready for need in step.requirements}))

    def load(self) -> None:
        """Import what the transforms need, and load tokenizers: what workers do first.

        Raises:
            ModuleNotFoundError: a package is missing; the message says how to get it there.
        """
        for need in self.requirements:
            try:
                importlib.import_module(_MODULES.get(need, need))
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    f"the transforms need {need}, which is not installed in {sys.executable}: "
                    f"deploy them with requirements={list(self.requirements)}, or install it there"
                ) from error
        for step in self.transforms:
            if isinstance(step, Transform):
                step.load()

    def __call__(self, samples: Sample | Sequence[Sample]) -> dict[str, Any]:
        """Transform one sample (a dict), or a batch (a list of them) into columns.

        Raises:
            TransformError: a sample can't be transformed; the message names it and its field.
        """
        if isinstance(samples, dict):
            return self._row(samples)
        if not isinstance(samples, (list, tuple)):
            raise TypeError(
                f"Compose takes samples, not {type(samples).__name__}: deploy it with "
                'level="sample" or level="batch"'
            )
        columns: dict[str, _Column] = {}
        for i, sample in enumerate(samples):
            for name, value in self._row(sample).items():
                if name not in columns:
                    columns[name] = _Column(len(samples))
                columns[name].put(i, value)
        return {name: column.finish() for name, column in columns.items()}

    def _row(self, sample: Sample) -> Sample:
        made = dict(sample)
        seed = made.get("__seed__", 0)
        try:
            for position, step in enumerate(self.transforms):
                if isinstance(step, Transform):
                    step.apply(made, Draws(seed, position))
                else:
                    made = _call(step, made, seed, position)
            made.pop("__seed__", None)
            return {name: finished(value) for name, value in made.items()}
        except TransformError as error:
            raise TransformError(f"{_name_of(sample)}: {error}") from None
        except Exception as error:  # of a user's function
            told = f"{_name_of(sample)}: {type(error).__name__}: {error}"
            raise TransformError(told) from error


def _name_of(sample: Sample) -> str:
    return f"sample {sample.get('__key__', '')!r}"


def _call(step: Callable[[Sample], Any], sample: Sample, seed: int, position: int) -> Sample:
    """A user's function, which draws from the generators that are the usual ones."""
    given = {name: finished(value) for name, value in sample.items()}
    if seed:
        bits = Draws(seed, position).bits()
        random.seed(bits)
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is not None:
            numpy_random.seed([bits & 0xFFFFFFFF, bits >> 32])
    made = step(given)
    if not isinstance(made, dict):
        name = getattr(step, "__name__", repr(step))
        raise TypeError(f"{name} returned {type(made).__name__}; a step returns the sample, a dict")
    return made


class _Column:
    """The rows of one field: in one array from the first row on, as long as all are of its kind."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.rows: Any = None
        self._filled = 0

    def put(self, i: int, value: Any) -> None:
        dense = isinstance(value, np.ndarray)
        if self.rows is None:
            fresh = dense and i == 0
            self.rows = (
                np.empty((self._count, *value.shape), value.dtype) if fresh else self._blank()
            )
        if isinstance(self.rows, np.ndarray):
            kind = (self.rows.shape[1:], self.rows.dtype)
            if dense and self._filled == i and (value.shape, value.dtype) == kind:
                self._filled = i + 1
            else:
                blank = self._blank()
                blank[: self._filled] = [row.copy() for row in self.rows[: self._filled]]
                self.rows = blank
        self.rows[i] = value

    def finish(self) -> Any:
        """The column, with None where a sample has no such field."""
        if isinstance(self.rows, np.ndarray) and self._filled < self._count:
            return [*self.rows[: self._filled], *self._blank()[self._filled :]]
        return self.rows

    def _blank(self) -> list[Any]:
        return [None] * self._count

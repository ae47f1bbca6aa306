"""Calls of the user's function: its arguments, and the random numbers that it draws."""

from __future__ import annotations

import inspect
import json
import random
import sys
from collections.abc import Callable
from typing import Any

from .frames import ArgumentsError
from .loading import Function, told_signature

_SEEDED_LATER = ("numpy.random", "torch")


class Caller:
    """A function with the arguments that the present requests give it."""

    def __init__(self, function: Function) -> None:
        """Begin without arguments."""
        self._plain = function
        self._args: dict[str, Any] = {}
        self._fault: ArgumentsError | None = None
        self._unseeded = set(_SEEDED_LATER)

    def take(self, text: bytes) -> None:
        """Take the arguments of the requests that follow; a misfit is an error of these."""
        args = json.loads(text) if text else {}
        self._args, self._fault = args, None
        try:
            inspect.signature(self._plain).bind(None, **args)
        except TypeError as e:
            given = ", ".join(args) or "none"
            self._fault = ArgumentsError(
                f"the arguments given ({given}) do not fit {told_signature(self._plain)}: {e}"
            )
        except ValueError:
            pass  # a builtin without a signature

    def check(self) -> None:
        """Raise ArgumentsError if the present arguments do not fit."""
        if self._fault is not None:
            raise self._fault

    def __call__(self, data: object) -> object:
        """Call the function without touching any generator."""
        return self._plain(data, **self._args)

    def seeded(self, make: Callable[[], object], seed: int) -> object:
        """Call the function with what make builds, the generators that are loaded seeded."""
        if not seed:
            return self._plain(make(), **self._args)
        self._seed(seed)
        result = self._plain(make(), **self._args)
        if self._unseeded and any(name in sys.modules for name in self._unseeded):
            # The call has loaded a generator, which was not seeded then: do it again, so that
            # the first sample of a process is no exception.
            self._seed(seed)
            result = self._plain(make(), **self._args)
            self._unseeded.difference_update(sys.modules)
        return result

    def _seed(self, seed: int) -> None:
        """Seed `random` and, where they are loaded, numpy's and torch's generators."""
        random.seed(seed)
        numpy_seed = getattr(sys.modules.get("numpy.random"), "seed", None)
        if numpy_seed is not None:
            numpy_seed([seed & 0xFFFFFFFF, seed >> 32])
            self._unseeded.discard("numpy.random")
        # Not torch.manual_seed, which queues a call for GPUs each time.
        generator = getattr(sys.modules.get("torch"), "default_generator", None)
        if generator is not None:
            generator.manual_seed(seed)
            self._unseeded.discard("torch")

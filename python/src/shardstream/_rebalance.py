"""The movement of objects in the background."""

from __future__ import annotations

import time
from typing import Any

from ._arguments import seconds
from ._exceptions import DeadlineError, UnavailableError
from ._http import Transport

_POLL_S = 0.3
_PATH = "/v1/cluster/rebalance"


class Rebalance:
    """The movement of objects to where they belong; `Client.rebalance`.

    It starts by itself: after targets joined, left or died, after disks were lost, and after a
    bucket was given other redundancy.
    """

    def __init__(self, http: Transport) -> None:
        self._http = http

    def status(self) -> dict[str, Any]:
        """How far it is, as `shardstream rebalance status --json` prints it."""
        answer: dict[str, Any] = self._http.json("GET", _PATH)
        return answer

    def start(self) -> dict[str, Any]:
        """Have all targets look at all that they have again, and go on after a `stop`."""
        answer: dict[str, Any] = self._http.json("POST", f"{_PATH}/start")
        return answer

    def stop(self) -> dict[str, Any]:
        """Move nothing, and delete nothing that was moved, until `start`."""
        answer: dict[str, Any] = self._http.json("POST", f"{_PATH}/stop")
        return answer

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait until everything is where it belongs, or it is stopped; returns the status.

        Args:
            timeout: seconds; by default as long as it takes.

        Raises:
            DeadlineError: it goes on still after the timeout.
        """
        limit = None if timeout is None else seconds("timeout", timeout)
        began = time.monotonic()
        while True:
            try:
                status = self.status()
            except (UnavailableError, DeadlineError):
                status = {}  # no gateway can say now
            if status.get("state") in ("idle", "stopped"):
                return status
            if limit is not None and time.monotonic() + _POLL_S > began + limit:
                raise DeadlineError(f"the rebalance goes on still after {limit:.3g} s")
            time.sleep(_POLL_S)

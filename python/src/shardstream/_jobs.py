"""The cluster's jobs: work that goes on whatever becomes of the client."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ._arguments import flag, integer, json_object, seconds, strings, text
from ._exceptions import DeadlineError, UnavailableError, from_code
from ._http import Transport
from ._models import JobFailure, JobStatus

_POLL_S = 0.3


class Jobs:
    """The cluster's jobs; `Client.jobs`."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def start(self, kind: str, **spec: Any) -> Job:
        """Start a job of a kind, as `POST /v1/jobs` describes it; `ETLs.run` is easier.

        Args:
            kind: "transform", "scrub", "prefetch" or "evict".
            spec: what the kind takes: etl, source, destination and so on.
        """
        document = {"kind": text("kind", kind), kind: spec}
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        # Sent once: two would be two jobs.
        response = self._http.request(
            "POST", "/v1/jobs", headers=headers, body=json.dumps(document).encode(), retry=False
        )
        return Job(self._http, json.loads(response.read())["id"])

    def get(self, id: str) -> Job:
        """A job by its id.

        Raises:
            NotFoundError: there is none.
        """
        job = Job(self._http, id)
        job.status()
        return job

    def list(self) -> Sequence[JobStatus]:
        """Those under way and the hundred that ended last, the oldest first."""
        answer = self._http.json("GET", "/v1/jobs")
        return [JobStatus.from_json(entry) for entry in answer.get("jobs") or ()]


class Job:
    """A job of the cluster; made by `ETLs.run` and `Jobs.get`."""

    def __init__(self, http: Transport, id: str) -> None:
        if not isinstance(id, str) or not id:
            raise ValueError(f"a job's id is a non-empty string, not {id!r}")
        self._http = http
        self.id = id
        self._path = f"/v1/jobs/{quote(id, safe='')}"

    def __repr__(self) -> str:
        return f"Job({self.id!r}, {self._http.endpoint!r})"

    def status(self) -> JobStatus:
        """How far it is."""
        return JobStatus.from_json(self._http.json("GET", self._path))

    def failures(self) -> Sequence[JobFailure]:
        """The objects that it could not deal with, the first thousand, and why."""
        answer = self._http.json("GET", f"{self._path}/failures")
        return [JobFailure.from_json(entry) for entry in answer.get("failures") or ()]

    def abort(self) -> None:
        """Ask it to end, which takes seconds; outputs that are complete stay."""
        self._http.json("DELETE", self._path)

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> JobStatus:
        """Wait for its end, and ride over gateways that are away meanwhile.

        Objects that failed are no exception: look at the status's `failed`, and at `failures`.

        Args:
            timeout: seconds; by default as long as it takes.
            progress: show on stderr how far it is.

        Raises:
            ShardstreamError: it failed or was aborted; of the class that its error's code has.
            DeadlineError: it goes on still after the timeout.
        """
        limit = None if timeout is None else seconds("timeout", timeout)
        shown = _Progress(self.id) if flag("progress", progress) else None
        began = time.monotonic()
        try:
            while True:
                status = self._try_status()
                if status is not None and shown is not None:
                    shown.show(status)
                if status is not None and status.finished:
                    break
                if limit is not None and time.monotonic() + _POLL_S > began + limit:
                    raise DeadlineError(f"job {self.id} goes on still after {limit:.3g} s")
                time.sleep(_POLL_S)
        finally:
            if shown is not None:
                shown.close()
        if status.state == "failed":
            raise from_code(status.error_code, f"job {self.id} failed: {status.error}")
        if status.state == "aborted":
            raise from_code("aborted", f"job {self.id} was aborted")
        return status

    def _try_status(self) -> JobStatus | None:
        """How far it is, None where no gateway can say now."""
        try:
            return self.status()
        except (UnavailableError, DeadlineError):
            return None


class _Progress:
    """A line on stderr that is written over again on a terminal."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._again = "\r" if sys.stderr.isatty() else ""
        self._line = ""

    def show(self, status: JobStatus) -> None:
        total = "?" if status.total is None else str(status.total)
        line = f"job {self._id}: {status.state}, {status.finished_objects} of {total} objects"
        if status.failed:
            line += f", {status.failed} failed"
        if not status.finished and status.eta is not None:
            line += f", {status.rate:.1f}/s, {status.eta:.0f} s to go"
        if status.waiting:
            line += f"; waits: {status.waiting[0]}"
        if line != self._line:
            end = "" if self._again else "\n"
            sys.stderr.write(f"{self._again}{line:<{len(self._line) if self._again else 0}}{end}")
            sys.stderr.flush()
            self._line = line

    def close(self) -> None:
        if self._again and self._line:
            sys.stderr.write("\n")


def transform_spec(
    etl: str,
    source: str,
    destination: str,
    *,
    args: Mapping[str, Any] | None,
    strip_prefix: str,
    prepend: str,
    extensions: Mapping[str, str] | None,
    only_new: bool,
    max_errors: int | None,
    patience: float,
) -> dict[str, Any]:
    """The description of a transformation job."""
    spec: dict[str, Any] = {
        "etl": text("name", etl),
        "source": text("source", source),
        "destination": text("destination", destination),
        "args": None if args is None else json_object("args", args),
        "strip_prefix": text("strip_prefix", strip_prefix),
        "prepend": text("prepend", prepend),
        "extensions": strings("extensions", extensions),
        "only_new": flag("only_new", only_new),
        "max_errors": None if max_errors is None else integer("max_errors", max_errors, 0),
        "patience_s": seconds("patience", patience),
    }
    return {name: value for name, value in spec.items() if value is not None}

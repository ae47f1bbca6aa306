"""Transformations: deployed by source, run by the targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from ._arguments import integer, names, seconds
from ._http import Transport
from ._models import ETLInfo
from ._source import source_of


class ETLs:
    """The cluster's transformations; `Client.etl`."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def create(
        self,
        name: str,
        function: Callable[..., Any] | str | Path,
        *,
        entry: str | None = None,
        level: Literal["sample", "object"] = "sample",
        requirements: Sequence[str] = (),
        workers: int = 0,
        timeout: float = 30.0,
    ) -> ETLInfo:
        """Deploy a function beside every target, or a new version of it.

        Args:
            name: what streams and reads call it by.
            function: a function, a path to a Python file (Path, or a str that ends in .py), or
                source text. A function's text is sent, with the imports, constants and other
                functions of its module that it uses. Other modules are imported there, so they
                must be installed for the nodes' Python: a module beside your script is not.
            entry: the function to call in a file or text; "transform" by default.
            level: "sample": takes a dict of field -> bytes (and "__key__": str), returns a dict
                of bytes, str, numbers or numpy arrays. "object": bytes to bytes.
            requirements: packages that it needs.
            workers: processes per target; 0 is one per CPU.
            timeout: seconds for one sample.

        Raises:
            ValueError: the function is a lambda, a closure, or uses what can't be sent as text;
                another argument is out of range.
            TypeError: an argument is of the wrong type.
            ETLError: the source does not load; the message has the traceback.
        """
        if level not in ("sample", "object"):
            raise ValueError(f"level must be 'sample' or 'object', not {level!r}")
        workers = integer("workers", workers, 0, 256)
        timeout = seconds("timeout", timeout)
        required = names("requirements", requirements)
        source, entry = source_of(function, entry)
        document = {
            "name": name,
            "kind": "function",
            "source": source,
            "entry": entry,
            "level": level,
            "requirements": list(required),
            "workers": workers,
            "timeout_s": timeout,
        }
        return ETLInfo.from_json(self._http.json("PUT", _etl_path(name), document))

    def list(self) -> Sequence[ETLInfo]:
        """All transformations, sorted by name."""
        answer = self._http.json("GET", "/v1/etls")
        entries = answer.get("etls") if isinstance(answer, dict) else answer
        return [ETLInfo.from_json(entry) for entry in entries or ()]

    def show(self, name: str) -> ETLInfo:
        """One transformation, its source included."""
        return ETLInfo.from_json(self._http.json("GET", _etl_path(name)))

    def logs(self, name: str) -> str:
        """What its workers printed lately, on all targets."""
        response = self._http.request("GET", f"{_etl_path(name)}/logs")
        return response.read().decode(errors="replace")

    def delete(self, name: str) -> None:
        """Remove it."""
        self._http.json("DELETE", _etl_path(name))


def _etl_path(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a transformation's name is a non-empty string, not {name!r}")
    return f"/v1/etls/{quote(name, safe='')}"

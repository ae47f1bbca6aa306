"""Transformations: deployed by source, run by the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from ._arguments import amount, choice, integer, names, seconds, text
from ._http import Transport
from ._models import ETLInfo
from ._source import pickle_of, source_of


class ETLs:
    """The cluster's transformations; `Client.etl`."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def create(
        self,
        name: str,
        function: Callable[..., Any] | str | Path | None = None,
        *,
        by: Literal["source", "cloudpickle"] = "source",
        image: str | None = None,
        url: str | None = None,
        command: Sequence[str] = (),
        entry: str | None = None,
        level: Literal["sample", "batch", "object"] | None = None,
        requirements: Sequence[str] = (),
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        port: int = 0,
        transport: Literal["push", "redirect", "proxy", "stdio"] | None = None,
        fields: Sequence[str] = (),
        args: Mapping[str, Any] | None = None,
        workers: int = 0,
        timeout: float = 30.0,
        memory: int | None = None,
        cpus: float = 0,
        max_output: int | None = None,
        isolation: Literal["strict", "landlock", "none"] | None = None,
        network: Literal["none", "host", "bridge"] | None = None,
    ) -> ETLInfo:
        """Deploy a transformation beside every target, or a new version of it.

        Give one of `function`, `image`, `url` and `command` (which with `image` takes the place
        of the image's own).

        Args:
            name: what streams and reads call it by.
            function: a function, a `shardstream.transforms.Compose`, a path to a Python file
                (Path, or a str that ends in .py), or source text. A function's text is sent, with
                the imports, constants and other functions of its module that it uses. Other modules
                are imported there, so they must be installed for the nodes' Python: a module
                beside your script is not.
            by: how a function travels: "source" (its text), or "cloudpickle" for closures and
                whatever else has no text: the nodes' Python then needs cloudpickle too, and must
                be of this one's version.
            image: an OCI image whose server transforms, run by podman or docker.
            url: a server that you run; {host} and {target} stand for a target's address and id.
            command: a program and its arguments, which filters stdin to stdout.
            entry: the function to call in a file or text; "transform" by default.
            level: "sample": takes a dict of field -> bytes (and "__key__": str), returns a dict
                of bytes, str, numbers or numpy arrays. "batch": takes a list of such dicts,
                returns a dict of columns with a row for each. "object": bytes to bytes. Functions
                are of level "sample" by default, all else of level "object".
            requirements: packages that it needs.
            python: the version of Python that it needs, such as "3.11".
            env: environment variables of a container or command.
            port: that a container's server listens on; by default it is given one in $PORT.
            transport: how data travels: "push" (the target sends it, the default), "redirect" or
                "proxy" (the server reads it from the target), "stdio" (commands).
            fields: of a sample, that an object-level transformation is applied to in streams.
            args: defaults of the arguments that requests may give.
            workers: processes per target; 0 is one per CPU.
            timeout: seconds for one sample or object.
            memory: bytes of one worker or of a container; 2 GiB by default.
            cpus: CPUs of one worker or of a container; 0 is no limit.
            max_output: bytes of one answer; 256 MiB by default.
            isolation: the least that will do; the most that the nodes have by default.
            network: that it may use; "none" by default.

        Raises:
            ValueError: the function is a lambda, a closure, or uses what can't be sent as text;
                another argument is out of range.
            TypeError: an argument is of the wrong type.
            ImportError: by="cloudpickle" where that is not installed.
            ETLError: the source does not load; the message has the traceback.
        """
        document: dict[str, Any] = {
            "name": name,
            "level": choice("level", level, (None, "sample", "batch", "object")),
            "requirements": list(names("requirements", requirements)),
            "python": None if python is None else text("python", python),
            "command": list(names("command", command)),
            "env": dict(env or {}),
            "port": integer("port", port, 0, 65535),
            "transport": transport,
            "fields": list(names("fields", fields)),
            "args": None if args is None else dict(args),
            "workers": integer("workers", workers, 0, 256),
            "timeout_s": seconds("timeout", timeout),
            "memory": None if memory is None else integer("memory", memory, 1),
            "cpus": amount("cpus", cpus),
            "max_output": None if max_output is None else integer("max_output", max_output, 1),
            "isolation": isolation,
            "network": network,
        }
        given = [n for n, v in (("function", function), ("image", image), ("url", url)) if v]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
        choice("by", by, ("source", "cloudpickle"))
        if by == "cloudpickle":
            if entry is not None:
                raise ValueError("entry is for source: cloudpickle sends the very function")
            pickle, version = pickle_of(function, document["python"])
            document |= {"kind": "function", "pickle": pickle, "python": version}
        elif function is not None:
            source, entry = source_of(function, entry)
            document |= {"kind": "function", "source": source, "entry": entry}
        elif image is not None:
            document |= {"kind": "container", "image": text("image", image)}
        elif url is not None:
            document |= {"kind": "server", "url": text("url", url)}
        elif document["command"]:
            document["kind"] = "command"
        else:
            raise ValueError("say what transforms: give a function, an image, a url or a command")
        document = {k: v for k, v in document.items() if v not in (None, [], {}, 0)}
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

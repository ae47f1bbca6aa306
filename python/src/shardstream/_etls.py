"""Transformations: deployed by source, run by the targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from ._arguments import amount, choice, flag, integer, json_object, names, seconds, strings, text
from ._etl_models import ETLInfo, ETLStatus, ETLTrial
from ._http import Transport
from ._jobs import Job, Jobs, transform_spec
from ._source import pickle_of, source_of

#: Arguments of one transformation, or of each in a chain of several.
ETLArgs = Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None


def etl_query(etl: str | Sequence[str], etl_args: ETLArgs, cache: bool) -> dict[str, str]:
    """The query of a read through transformations; empty where there are none."""
    chain = [etl] * bool(etl) if isinstance(etl, str) else list(names("etl", etl))
    if not isinstance(cache, bool):
        raise TypeError(f"cache must be True or False, not {cache!r}")
    if not chain:
        if etl_args is not None or cache:
            raise ValueError("etl_args and cache go with etl only")
        return {}
    query = {"etl": ",".join(chain)}
    if etl_args is not None:
        query["etl_args"] = _args_json(etl_args)
    if cache:
        query["cache"] = "true"
    return query


def _args_json(args: Any) -> str:
    several = args if isinstance(args, (list, tuple)) else [args]
    if not all(isinstance(one, Mapping) or (one is None and one is not args) for one in several):
        raise TypeError(f"etl_args is a dict, or for a chain a list of dicts, not {args!r}")
    try:
        plain = [None if one is None else dict(one) for one in several]
        return json.dumps(plain if several is args else plain[0])
    except (TypeError, ValueError) as error:
        raise TypeError(f"etl_args must be what JSON can hold: {error}") from error


# Seconds: more than the gateway waits for the targets.
_DEPLOY_TIMEOUT = 16 * 60.0
_RESTART_TIMEOUT = 4 * 60.0


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
        wait: bool = True,
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
            requirements: packages that it needs. Each target installs them in an environment of
                the function's own, in which nothing else is.
            python: the version of Python that it needs, such as "3.11".
            env: environment variables of the workers, the container or the command.
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
            wait: return once every target has made it ready, which takes minutes where
                environments are built; `status` tells meanwhile how far that is. If one can't,
                nothing is deployed, and the version before stays. With False it is deployed
                untried, and `status` tells whether it works.

        Raises:
            ValueError: the function is a lambda, a closure, or uses what can't be sent as text;
                another argument is out of range.
            TypeError: an argument is of the wrong type.
            ImportError: by="cloudpickle" where that is not installed.
            ETLError: the source does not load, or its requirements can't be installed; the
                message has the traceback or the end of the log.
        """
        document: dict[str, Any] = {
            "name": name,
            "level": choice("level", level, (None, "sample", "batch", "object")),
            "requirements": list(names("requirements", requirements)),
            "python": None if python is None else text("python", python),
            "command": list(names("command", command)),
            "env": strings("env", env),
            "port": integer("port", port, 0, 65535),
            "transport": None if transport is None else text("transport", transport),
            "fields": list(names("fields", fields)),
            "args": None if args is None else json_object("args", args),
            "workers": integer("workers", workers, 0, 256),
            "timeout_s": seconds("timeout", timeout),
            "memory": None if memory is None else integer("memory", memory, 1),
            "cpus": amount("cpus", cpus),
            "max_output": None if max_output is None else integer("max_output", max_output, 1),
            "isolation": None if isolation is None else text("isolation", isolation),
            "network": None if network is None else text("network", network),
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
        if not flag("wait", wait):
            return ETLInfo.from_json(
                self._http.json("PUT", f"{_etl_path(name)}?wait=false", document)
            )
        patient = self._http.patient(_DEPLOY_TIMEOUT)
        try:
            return ETLInfo.from_json(patient.json("PUT", _etl_path(name), document))
        finally:
            patient.close()

    def run(
        self,
        name: str,
        source: str,
        destination: str,
        *,
        args: Mapping[str, Any] | None = None,
        strip_prefix: str = "",
        prepend: str = "",
        extensions: Mapping[str, str] | None = None,
        only_new: bool = False,
        max_errors: int | None = None,
        patience: float = 3600.0,
    ) -> Job:
        """Start a job that transforms objects and stores what comes out, on all targets.

        An output has its source's name behind the destination's prefix. It is stored whole or not
        at all, and once, whatever dies meanwhile.

        Args:
            name: the transformation.
            source: "ss://bucket/", with a prefix that ends in "/", or braces and globs.
            destination: "ss://bucket/" or "ss://bucket/prefix/".
            args: arguments of the transformation.
            strip_prefix: taken off the names of sources.
            prepend: put before the names of outputs.
            extensions: to replace, such as {"jpg": "npy"}.
            only_new: leave outputs be that the same version of the source and of the
                transformation made, with the same arguments.
            max_errors: more objects that fail than this fail the job; any number may by default.
            patience: seconds to wait for a node that is away.

        Raises:
            NotFoundError: there is no such transformation or bucket.
            RequestError: outputs would be sources of the job, or something else is wrong.

        Example:
            >>> job = client.etl.run("resize", "ss://photos/", "ss://small/")
            >>> job.wait(progress=True).done
            2000
        """
        spec = transform_spec(
            name,
            source,
            destination,
            args=args,
            strip_prefix=strip_prefix,
            prepend=prepend,
            extensions=extensions,
            only_new=only_new,
            max_errors=max_errors,
            patience=patience,
        )
        return Jobs(self._http).start("transform", **spec)

    def list(self) -> Sequence[ETLInfo]:
        """All transformations, sorted by name."""
        answer = self._http.json("GET", "/v1/etls")
        entries = answer.get("etls") if isinstance(answer, dict) else answer
        return [ETLInfo.from_json(entry) for entry in entries or ()]

    def show(self, name: str) -> ETLInfo:
        """One transformation, its source included."""
        return ETLInfo.from_json(self._http.json("GET", _etl_path(name)))

    def status(self, name: str) -> ETLStatus:
        """How it is on each target; also while `create` has the targets try it."""
        return ETLStatus.from_json(self._http.json("GET", f"{_etl_path(name)}/status"))

    def restart(self, name: str) -> ETLStatus:
        """Replace its workers by new ones, each when it is done with what it has in hand.

        An environment that could not be built is tried again.
        """
        patient = self._http.patient(_RESTART_TIMEOUT)
        try:
            return ETLStatus.from_json(patient.json("POST", f"{_etl_path(name)}/restart"))
        finally:
            patient.close()

    def logs(self, name: str, *, target: str | None = None) -> str:
        """What builds of its environment and its workers printed lately, on all targets or one."""
        which = "" if target is None else f"?target={quote(text('target', target), safe='')}"
        response = self._http.request("GET", f"{_etl_path(name)}/logs{which}")
        return response.read().decode(errors="replace")

    def test(
        self,
        name: str,
        address: str,
        *,
        member: str = "",
        args: Mapping[str, Any] | None = None,
        function: Callable[..., Any] | str | Path | None = None,
        entry: str | None = None,
        level: Literal["sample", "batch", "object"] | None = None,
        requirements: Sequence[str] = (),
        data: bool = False,
    ) -> ETLTrial:
        """Try a transformation on one object or sample, where that lies.

        One that fails is no exception here: `ETLTrial.error` says why. A test that takes longer
        than the client's timeout, as when an environment is built for it, needs a client with a
        larger one.

        Args:
            name: the transformation; with `function` what messages call it.
            address: "ss://bucket/key". Of an archive a transformation of samples gets the first
                sample, or the one that `member` belongs to.
            member: a file inside the archive.
            args: arguments of the transformation.
            function: tried in place of what is deployed, as for `create`; it is not deployed.
            entry: as for `create`.
            level: as for `create`.
            requirements: as for `create`.
            data: whether to get the bytes as well: what an object became, or a tar of a sample.

        Raises:
            NotFoundError: no such transformation, object or member.
        """
        document: dict[str, Any] = {"address": text("address", address), "data": flag("data", data)}
        if member:
            document["member"] = text("member", member)
        if args is not None:
            document["args"] = json_object("args", args)
        if function is not None:
            source, entry = source_of(function, entry)
            definition = {
                "kind": "function",
                "source": source,
                "entry": entry,
                "level": choice("level", level, (None, "sample", "batch", "object")),
                "requirements": list(names("requirements", requirements)),
            }
            document["definition"] = {"name": name} | {k: v for k, v in definition.items() if v}
        elif entry or level or requirements:
            raise ValueError("entry, level and requirements go with function only")
        return ETLTrial.from_json(self._http.json("POST", f"{_etl_path(name)}/test", document))

    def delete(self, name: str) -> None:
        """Remove it."""
        self._http.json("DELETE", _etl_path(name))


def _etl_path(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a transformation's name is a non-empty string, not {name!r}")
    return f"/v1/etls/{quote(name, safe='')}"

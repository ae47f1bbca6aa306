"""Buckets in front of backends: their properties as arguments and as records, and secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from ._arguments import choice, flag, integer, names, seconds, strings, text
from ._http import Transport
from ._times import time_of

_UNITS = (
    {"": 1, "B": 1}
    | {
        f"{letter}{suffix}": base**power
        for power, letter in enumerate("KMGTPE", start=1)
        for suffix, base in (("iB", 1024), ("B", 1000))
    }
    | {"kB": 1000}
)
_ARGUMENTS = {"url": "backend", "endpoint": "endpoint_url", "ttl_s": "ttl", "pinned": "pin"}
_CHECKS = ("never", "ttl", "always")
_WRITES = ("read-only", "write-through", "cache-only")
_DELETES = ("refuse", "cache", "through")


@dataclass(frozen=True)
class BackendInfo:
    """Where a bucket's objects come from, and how they are cached.

    Attributes:
        url: s3://..., gs://..., az://..., hdfs://..., http(s)://... or ss://....
        secret: name of the secret with its credentials; "" for those of the nodes' environment.
        endpoint_url: where its service is, if not at the vendor's.
        region: of the service.
        ca: PEM of certificates that are trusted besides the system's.
        insecure: its certificate is not checked.
        check: when a cached object is compared with the backend's: "never", "ttl" or "always".
        ttl: seconds that a comparison holds, with "ttl".
        write: where new objects go: "read-only" (nowhere), "write-through" or "cache-only".
        delete: what a deletion removes: "refuse", "cache" (the cached copy alone) or "through".
        quota: bytes that cached objects may take in the whole cluster; 0 for what there is.
        read_ahead: bytes that streams may fetch ahead of use; 0 for the default.
        pin: names and patterns of objects that are not evicted.
    """

    url: str
    secret: str
    endpoint_url: str
    region: str
    ca: str
    insecure: bool
    check: str
    ttl: float
    write: str
    delete: str
    quota: int
    read_ahead: int
    pin: tuple[str, ...]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> BackendInfo:
        """From the member `backend` of a bucket."""
        return cls(
            url=document["url"],
            secret=document.get("secret", ""),
            endpoint_url=document.get("endpoint", ""),
            region=document.get("region", ""),
            ca=document.get("ca", ""),
            insecure=bool(document.get("insecure")),
            check=document["check"],
            ttl=float(document.get("ttl_s") or 0),
            write=document["write"],
            delete=document["delete"],
            quota=int(document.get("quota") or 0),
            read_ahead=int(document.get("read_ahead") or 0),
            pin=tuple(document.get("pinned") or ()),
        )


@dataclass(frozen=True)
class CacheInfo:
    """How much of a bucket with a backend is in the cluster.

    Attributes:
        objects: cached ones.
        bytes: of these.
        known: objects that are described, but not here.
        own: objects that were put into the cluster alone.
        quota: bytes that cached objects may take; 0 for what there is.
        pinned: bytes of objects that are not evicted.
        fetches: under way.
    """

    objects: int
    bytes: int
    known: int
    own: int
    quota: int
    pinned: int
    fetches: int

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CacheInfo:
        """From the answer to a GET of the bucket's cache."""
        return cls(**{name: int(document.get(name) or 0) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class SecretInfo:
    """A secret, without what is secret.

    Attributes:
        name: its name.
        fields: the names of its fields, sorted.
        created: when it was stored.
    """

    name: str
    fields: tuple[str, ...]
    created: datetime | None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SecretInfo:
        """From an entry of the list, or the answer to a PUT."""
        fields = tuple(document.get("fields") or ())
        return cls(document["name"], fields, time_of(document.get("created")))


class Secrets:
    """Credentials of backends that the cluster keeps; `Client.secrets`."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def set(self, name: str, fields: Mapping[str, str]) -> SecretInfo:
        """Store a secret, new or in place of the one of that name.

        Args:
            name: lower-case letters, digits, - and _.
            fields: as the backend's guide names them, such as access_key_id and
                secret_access_key. Nothing shows them again.
        """
        data = strings("fields", fields)
        if not data:
            raise ValueError("fields: a secret has one field at least")
        document = {"name": text("name", name), "data": data}
        return SecretInfo.from_json(self._http.json("PUT", self._path(name), document))

    def ls(self) -> Sequence[SecretInfo]:
        """All secrets, sorted by name."""
        answer = self._http.json("GET", "/v1/secrets")
        return [SecretInfo.from_json(entry) for entry in answer.get("secrets") or ()]

    def rm(self, name: str) -> None:
        """Remove a secret.

        Raises:
            ConflictError: a bucket needs it.
            NotFoundError: there is none.
        """
        self._http.json("DELETE", self._path(name))

    def _path(self, name: str) -> str:
        if not isinstance(name, str) or not name:
            raise ValueError(f"a secret's name is a non-empty string, not {name!r}")
        return f"/v1/secrets/{quote(name, safe='')}"


def byte_size(name: str, value: Any) -> int:
    """A number of bytes: an int, or text such as "100GiB"."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip())
        if match is None or match[2] not in _UNITS:
            raise ValueError(f'{name} must be a number of bytes, or like "100GiB", not {value!r}')
        value = int(Decimal(match[1]) * _UNITS[match[2]])
    return integer(name, value, 0, 1 << 62)


def backend_properties(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of a backend's properties, as members of its document."""
    members: dict[str, Callable[[Any], Any]] = {
        "url": lambda v: text("backend", v),
        "secret": lambda v: text("secret", v),
        "endpoint": lambda v: text("endpoint_url", v),
        "region": lambda v: text("region", v),
        "ca": lambda v: text("ca", v),
        "insecure": lambda v: flag("insecure", v),
        "check": lambda v: choice("check", v, _CHECKS),
        "ttl_s": lambda v: seconds("ttl", v),
        "write": lambda v: choice("write", v, _WRITES),
        "delete": lambda v: choice("delete", v, _DELETES),
        "quota": lambda v: byte_size("quota", v),
        "read_ahead": lambda v: byte_size("read_ahead", v),
        "pinned": lambda v: list(names("pin", v)),
    }
    given = {
        name: read(arguments[name])
        for name, read in members.items()
        if arguments.get(name) is not None
    }
    if given.get("check", "ttl") != "ttl" and "ttl_s" in given:
        raise ValueError(f'ttl is for check="ttl", not for {given["check"]!r}')
    return given


def backend_patch(backend: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """What changes of a backend's document, for the gateway to merge; None is a default."""
    check = change.get("check", backend.get("check"))
    if check != "ttl" and "ttl_s" in change:
        raise ValueError(f'ttl is for check="ttl", and the bucket has {check!r}')
    if change.get("check", "ttl") != "ttl":
        return {**change, "ttl_s": None}
    return dict(change)


def argument_of(properties: Mapping[str, Any]) -> str:
    """The first argument among a document's members, by the name that it has in Python."""
    first = next(iter(properties))
    return _ARGUMENTS.get(first, first)


def content_spec(bucket: str, objects: str | Sequence[str]) -> dict[str, Any]:
    """Which objects of a bucket a job is about: a prefix, a pattern, or a list of names."""
    if not isinstance(objects, str):
        several = list(names("objects", objects))
        if not several:
            raise ValueError('objects: an empty list of names; "" is for all objects')
        return {"bucket": bucket, "names": several}
    if any(letter in objects for letter in "*?[{"):
        return {"bucket": bucket, "pattern": objects}
    if objects == "" or objects.endswith("/"):
        return {"bucket": bucket, "prefix": objects}
    return {"bucket": bucket, "names": [objects]}

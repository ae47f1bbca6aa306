"""The objects of a bucket: put, read, listed, found."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

from ._arguments import integer
from ._body import CHUNK, Body, Data, header_text, read_json, verify
from ._etls import ETLArgs, etl_query
from ._exceptions import IntegrityError
from ._http import Response, Transport
from ._models import Location, ObjectInfo


class Objects:
    """What a `Bucket` does with its objects."""

    def __init__(self, http: Transport, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"a bucket's name is a non-empty string, not {name!r}")
        self._http = http
        self.name = name
        self._path = f"/v1/buckets/{quote(name, safe='')}"

    def put(
        self,
        key: str,
        data: Data,
        *,
        content_type: str = "",
        meta: Mapping[str, str] | None = None,
        index: bool = True,
        if_match: str = "",
        if_none_match: str = "",
    ) -> ObjectInfo:
        """Store an object; it is durable when this returns.

        The bytes go to the node that keeps them, not through the gateway.

        Args:
            key: its name; a name that ends in .tar is indexed as an archive of samples.
            data: bytes, a path (str or Path), or an open binary file.
            content_type: its media type.
            meta: properties of your own.
            index: False stores an archive as opaque bytes.
            if_match: store only over the version with this ETag.
            if_none_match: "*" stores only if there is no such object.

        Raises:
            BadArchiveError: the archive is truncated or damaged; nothing was stored.
            PreconditionError: if_match or if_none_match did not hold.
            IntegrityError: the bytes changed on their way.
        """
        headers = {
            f"X-Shardstream-Meta-{name}": header_text(f"meta[{name!r}]", value)
            for name, value in (meta or {}).items()
        }
        for name, value in (
            ("Content-Type", content_type or "application/octet-stream"),
            ("If-Match", if_match),
            ("If-None-Match", if_none_match),
            ("X-Shardstream-Archive", "" if index else "none"),
        ):
            if value:
                headers[name] = value
        body = Body(data)
        try:
            if body.crc32 is not None:
                headers["X-Shardstream-Checksum"] = f"crc32={body.crc32:08x}"
            # A conditional PUT is not repeated: the second would meet the first one's work.
            retry = body.repeatable and not (if_match or if_none_match)
            response = self._http.request(
                "PUT",
                self.locate(key).url,
                headers=headers,
                stream=body.chunks,
                length=body.length,
                retry=retry,
            )
            info = ObjectInfo.from_json(read_json(response))
        finally:
            body.close()
        if info.crc32 and int(info.crc32, 16) != body.sent_crc32:
            raise IntegrityError(
                f"ss://{self.name}/{key}: sent bytes with crc32 {body.sent_crc32:08x}, but "
                f"{info.crc32} were stored as version {info.version}: put it again"
            )
        return info

    def get(
        self,
        key: str,
        *,
        member: str = "",
        offset: int = 0,
        length: int | None = None,
        etl: str | Sequence[str] = (),
        etl_args: ETLArgs = None,
        cache: bool = False,
    ) -> bytes:
        """Read an object, or a part of one, into memory.

        Args:
            key: the object.
            member: a file inside the archive.
            offset: first byte; below zero counts from the end. With etl: of what comes out.
            length: at most so many bytes; None is all that follow.
            etl: the transformation to run it through, or several, in order. One that takes longer
                than the client's timeout to begin its answer needs a client with a larger one.
            etl_args: arguments of the transformation; of several, a list with a dict or None for
                each.
            cache: have the target keep what comes out, or give what it kept. Asked for again, the
                same version of the object through the same versions of the transformations, with
                the same arguments, is then one read.

        Raises:
            NotFoundError: no such object, member or transformation.
            RangeError: offset lies outside the object.
            CorruptError: the stored bytes are damaged; none of them is returned.
            ETLError: a transformation failed; the message has its traceback.
            IntegrityError: the answer broke off, as when a transformation fails after the first
                megabytes of its output were sent.
        """
        query = etl_query(etl, etl_args, cache)
        response = self._get(key, member, offset, length, query)
        data = response.read()
        what = f"ss://{self.name}/{key}"
        if query:
            verify(what, response, zlib.crc32(data), "X-Shardstream-Body-Checksum")
        elif response.status == 200 and not member:
            verify(what, response, zlib.crc32(data))
        return data

    def download(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        etl: str | Sequence[str] = (),
        etl_args: ETLArgs = None,
        cache: bool = False,
    ) -> ObjectInfo:
        """Write an object to a file, verified; a failed one leaves no file behind.

        `etl`, `etl_args` and `cache` are as for `get`; what is written is then what comes out.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        query = etl_query(etl, etl_args, cache)
        response = self._get(key, "", 0, None, query)
        checksum = "X-Shardstream-Body-Checksum" if query else "X-Shardstream-Checksum"
        total = 0
        try:
            with part.open("wb") as file:
                while chunk := response.read(CHUNK):
                    total = zlib.crc32(chunk, total)
                    file.write(chunk)
            verify(f"ss://{self.name}/{key}", response, total, checksum)
            part.replace(target)
        finally:
            response.close()
            part.unlink(missing_ok=True)
        return ObjectInfo.from_headers(self.name, key, response.headers)

    def head(self, key: str) -> ObjectInfo:
        """An object's properties."""
        response = self._http.request("HEAD", self._object(key))
        response.read()
        return ObjectInfo.from_headers(self.name, key, response.headers)

    def delete(self, key: str, *, if_match: str = "") -> None:
        """Delete an object.

        Raises:
            NotFoundError: no such object.
            PreconditionError: its ETag is not if_match.
        """
        headers = {"If-Match": if_match} if if_match else {}
        self._http.request("DELETE", self._object(key), headers=headers).read()

    def list(
        self,
        prefix: str = "",
        *,
        start_after: str = "",
        page: int = 1000,
        cached: bool = False,
    ) -> Iterator[ObjectInfo]:
        """The objects whose keys begin with prefix, sorted by key; fetched page by page.

        A listing is complete or it raises: UnavailableError where a node is away, BackendError
        where a backend can't be listed.

        Args:
            prefix: of the keys.
            start_after: the key to begin behind.
            page: objects that are asked for at once.
            cached: of a bucket with a backend, what is in the cluster; the backend is not asked.
        """
        while True:
            parameters = {"prefix": prefix, "start_after": start_after, "limit": page}
            query = urlencode(parameters | ({"cached": "true"} if cached else {}))
            answer = self._http.json("GET", f"{self._path}/objects?{query}")
            for entry in answer.get("objects") or ():
                yield ObjectInfo.from_json(entry)
            start_after = answer.get("next") or ""
            if not start_after:
                return

    def prefixes(self, prefix: str = "", *, delimiter: str = "/") -> Iterator[str]:
        """The next level of names below prefix, each with its delimiter: the "folders"."""
        start_after = ""
        while True:
            query = urlencode(
                {"prefix": prefix, "delimiter": delimiter, "start_after": start_after}
            )
            answer = self._http.json("GET", f"{self._path}/objects?{query}")
            yield from answer.get("prefixes") or ()
            start_after = answer.get("next") or ""
            if not start_after:
                return

    def locate(self, key: str) -> Location:
        """The node that owns a key, and the files that hold the object if it exists."""
        return Location.from_json(self._http.json("GET", f"{self._object(key)}?op=locate"))

    def _object(self, key: str) -> str:
        if not isinstance(key, str) or not key:
            raise ValueError(f"an object's key is a non-empty string, not {key!r}")
        return f"/v1/objects/{quote(self.name, safe='')}/{quote(key, safe='/')}"

    def _get(
        self, key: str, member: str, offset: int, length: int | None, etl: Mapping[str, str]
    ) -> Response:
        offset = integer("offset", offset)
        if length is not None:
            length = integer("length", length)
            if length < 1:
                raise ValueError(f"length must be at least 1, or None for all, not {length}")
        query = urlencode(({"member": member} if member else {}) | dict(etl))
        headers = {}
        if offset < 0:
            if length is not None:
                raise ValueError("an offset from the end reads to the end: leave length out")
            headers["Range"] = f"bytes={offset}"
        elif offset or length is not None:
            headers["Range"] = f"bytes={offset}-" + (str(offset + length - 1) if length else "")
        return self._http.request(
            "GET", self._object(key) + (f"?{query}" if query else ""), headers=headers
        )

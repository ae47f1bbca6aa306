"""The cluster's REST API for Python: buckets, objects, transformations, status."""

from __future__ import annotations

import io
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

from ._arguments import erasure_code, flag, integer, text
from ._backends import (
    CacheInfo,
    Secrets,
    argument_of,
    backend_patch,
    backend_properties,
    content_spec,
)
from ._etls import ETLArgs, ETLs, etl_query
from ._exceptions import ConflictError, IntegrityError, NotFoundError, ShardstreamError
from ._http import Response, Transport
from ._jobs import Job, Jobs
from ._models import BucketInfo, Explanation, Location, ObjectInfo, checksums
from ._rebalance import Rebalance

DEFAULT_ENDPOINT = "http://127.0.0.1:7070"
_CHUNK = 1 << 20
_DESCRIBING_PAUSE = 0.2  # seconds; an answer comes once there is something to say
_TEXT_FILES: type[object] = io.TextIOBase  # what a PUT does not take

#: What a PUT takes: bytes, a path to a file, or an open binary file.
Data = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO


class Client:
    """A connection to a cluster: plain HTTP, no thread, no Go; safe in any process.

    Args:
        endpoint: a gateway, by default SHARDSTREAM_ENDPOINT, or http://127.0.0.1:7070.
        token: by default SHARDSTREAM_TOKEN.
        timeout: seconds without any answer after which a call raises DeadlineError; also the
            limit of a whole call that moves no object's bytes.
        retry_for: seconds for which a call is repeated while a node that it needs is away.

    Raises:
        ValueError: the endpoint is no http address, or the timeout is not positive.

    Example:
        >>> client = Client()
        >>> client.bucket("digits").create()
        >>> client.bucket("digits").put("train-0000.tar", Path("train-0000.tar"))
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 60.0,
        retry_for: float = 10.0,
    ) -> None:
        endpoint = endpoint or os.environ.get("SHARDSTREAM_ENDPOINT") or DEFAULT_ENDPOINT
        token = os.environ.get("SHARDSTREAM_TOKEN", "") if token is None else token
        self._http = Transport(endpoint, token, timeout, retry_for)

    def __repr__(self) -> str:
        return f"Client({self.endpoint!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        """The gateway that this client talks to."""
        return self._http.endpoint

    @property
    def etl(self) -> ETLs:
        """The cluster's transformations."""
        return ETLs(self._http)

    @property
    def jobs(self) -> Jobs:
        """The cluster's jobs."""
        return Jobs(self._http)

    @property
    def rebalance(self) -> Rebalance:
        """The movement of objects to where they belong."""
        return Rebalance(self._http)

    @property
    def secrets(self) -> Secrets:
        """Credentials of backends, which the cluster keeps."""
        return Secrets(self._http)

    def scrub(self, bucket: str = "") -> Job:
        """Start to read and verify all copies, and to replace damaged ones by good ones.

        Args:
            bucket: the one to verify; all by default.
        """
        return self.jobs.start("scrub", **({"bucket": text("bucket", bucket)} if bucket else {}))

    def bucket(self, name: str) -> Bucket:
        """A handle for a bucket; nothing is asked or made yet."""
        return Bucket(self._http, name)

    def buckets(self) -> list[BucketInfo]:
        """All buckets, sorted by name."""
        answer = self._http.json("GET", "/v1/buckets")
        entries = answer.get("buckets") if isinstance(answer, dict) else answer
        return [BucketInfo.from_json(entry) for entry in entries or ()]

    def status(self) -> dict[str, Any]:
        """The cluster's state, as `shardstream status --json` prints it."""
        answer: dict[str, Any] = self._http.json("GET", "/v1/cluster")
        return answer

    def stream_info(self, description: Mapping[str, Any]) -> dict[str, Any]:
        """Describe a stream to the cluster (POST /v1/streams); returns its snapshot and counts.

        As long as the cluster describes shards at their backend, it is asked again.
        """
        while True:
            try:
                answer: dict[str, Any] = self._http.json("POST", "/v1/streams", dict(description))
            except ShardstreamError as error:
                if error.code != "describing":
                    raise
                time.sleep(_DESCRIBING_PAUSE)
            else:
                return answer

    def explain(self, description: Mapping[str, Any]) -> Explanation:
        """Say which samples a stream yields (POST /v1/streams/explain).

        Args:
            description: the stream as for `stream_info`, and epoch with batch, or position and
                count. `IterableDataset.explain` fills it in.
        """
        answer = self._http.json("POST", "/v1/streams/explain", dict(description))
        return Explanation.from_json(answer)

    def close(self) -> None:
        """Close idle connections. Calling it twice is fine."""
        self._http.close()


def _properties(mirror: int | None, ec: Any, degraded: bool | None) -> dict[str, Any]:
    """What is given of a bucket's properties, as a document."""
    document: dict[str, Any] = {}
    if mirror is not None:
        document["mirror"] = integer("mirror", mirror, 1)
    if ec is not None:
        document["ec"] = erasure_code(ec)
    if degraded is not None:
        document["degraded"] = flag("degraded", degraded)
    return document


class Bucket:
    """A bucket's objects; made by `Client.bucket`."""

    def __init__(self, http: Transport, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"a bucket's name is a non-empty string, not {name!r}")
        self._http = http
        self.name = name
        self._path = f"/v1/buckets/{quote(name, safe='')}"

    def __repr__(self) -> str:
        return f"Bucket({self.name!r}, {self._http.endpoint!r})"

    def create(
        self,
        *,
        mirror: int | None = None,
        ec: str | tuple[int, int] | None = None,
        degraded: bool | None = None,
        backend: str | None = None,
        secret: str | None = None,
        endpoint_url: str | None = None,
        region: str | None = None,
        ca: str | None = None,
        insecure: bool | None = None,
        check: str | None = None,
        ttl: float | None = None,
        write: str | None = None,
        delete: str | None = None,
        quota: int | str | None = None,
        read_ahead: int | str | None = None,
        pin: Sequence[str] | None = None,
        probe: bool = True,
        exist_ok: bool = False,
    ) -> Bucket:
        """Make the bucket, and return this handle.

        With `backend` it is a cache in front of objects that are kept elsewhere: they are fetched
        when they are read. The arguments behind `backend` are for that.

        Args:
            mirror: copies of each object, on targets of their own; one by default.
            ec: "4+2": objects are cut into 4 slices with 2 more, any 2 of which may be lost.
            degraded: take writes while fewer targets are up than copies are to be made; they are
                refused otherwise.
            backend: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX,
                hdfs://HOST:PORT/PATH, http(s)://HOST/PATH or ss://HOST:PORT/BUCKET.
            secret: name of the secret with its credentials (see `Client.secrets`); by default
                those of the nodes' environment.
            endpoint_url: where its service is, if not at the vendor's.
            region: of the service.
            ca: PEM of certificates to trust besides the system's.
            insecure: don't check its certificate.
            check: when a cached object is compared with the backend's: "ttl" (the default),
                "never" or "always".
            ttl: seconds that a comparison holds; 60 by default.
            write: where new objects go: "read-only" (the default: nowhere), "write-through" or
                "cache-only".
            delete: what a deletion removes: "refuse" (the default), "cache" (the cached copy
                alone) or "through".
            quota: bytes, or like "100GiB", that cached objects may take; by default what the
                disks have room for.
            read_ahead: bytes that streams may fetch ahead of use.
            pin: names and patterns of objects that are not evicted.
            probe: try whether the backend answers.
            exist_ok: do nothing if the bucket is there already.

        Raises:
            ConflictError: it is there already.
            BackendError: the backend does not answer as it should.
        """
        document = {"name": self.name, **_properties(mirror, ec, degraded)}
        origin = backend_properties(
            {
                "url": backend,
                "secret": secret,
                "endpoint": endpoint_url,
                "region": region,
                "ca": ca,
                "insecure": insecure,
                "check": check,
                "ttl_s": ttl,
                "write": write,
                "delete": delete,
                "quota": quota,
                "read_ahead": read_ahead,
                "pinned": pin,
            }
        )
        if origin:
            if not backend:
                raise ValueError(f"{argument_of(origin)} is for a bucket with a backend's URL")
            document["backend"] = origin
        path = self._path + ("" if flag("probe", probe) else "?check=false")
        try:
            self._http.json("PUT", path, document)
        except ConflictError as error:
            if not exist_ok or error.code != "already_exists":
                raise
        return self

    def set(
        self,
        *,
        mirror: int | None = None,
        ec: str | tuple[int, int] | None = None,
        degraded: bool | None = None,
        secret: str | None = None,
        endpoint_url: str | None = None,
        region: str | None = None,
        ca: str | None = None,
        insecure: bool | None = None,
        check: str | None = None,
        ttl: float | None = None,
        write: str | None = None,
        delete: str | None = None,
        quota: int | str | None = None,
        read_ahead: int | str | None = None,
        pin: Sequence[str] | None = None,
    ) -> BucketInfo:
        """Change the bucket's properties, and return them as they are now.

        Objects that are there already are brought to another redundancy in the background. Of a
        backend all but its URL may be changed; the arguments are those of `create`.

        Args:
            mirror: copies of each object.
            ec: "4+2", as for `create`, or "none" for whole copies, as many as `mirror` says.
            degraded: whether to take writes while fewer targets are up than copies are to be made.
            secret: "" for the nodes' environment.
            endpoint_url: "" for the vendor's.
            region: "" for none.
            ca: "" for the system's certificates alone.
            insecure: whether not to check the backend's certificate.
            check: when a cached object is compared with the backend's.
            ttl: seconds that a comparison holds.
            write: where new objects go.
            delete: what a deletion removes.
            quota: 0 for what the disks have room for.
            read_ahead: 0 for the default.
            pin: all that is not evicted from now on; [] for nothing.

        Raises:
            UnavailableError: objects are still being moved after the last change; try again later.
        """
        change = _properties(mirror, ec, degraded)
        origin = backend_properties(
            {
                "secret": secret,
                "endpoint": endpoint_url,
                "region": region,
                "ca": ca,
                "insecure": insecure,
                "check": check,
                "ttl_s": ttl,
                "write": write,
                "delete": delete,
                "quota": quota,
                "read_ahead": read_ahead,
                "pinned": pin,
            }
        )
        if origin:
            now = self._http.json("GET", self._path).get("backend")
            if now is None:
                raise ValueError(
                    f"bucket {self.name} has no backend that {argument_of(origin)} could be set of"
                )
            change["backend"] = backend_patch(now, origin)
        if not change:
            raise TypeError("say what to change: mirror, ec, degraded, or how a backend is cached")
        # Merged by the gateway: what others change meanwhile holds, too.
        answer = self._http.json("PATCH", self._path, change, "application/merge-patch+json")
        return BucketInfo.from_json(answer)

    def cached(self) -> CacheInfo:
        """How much of the bucket's backend is in the cluster."""
        return CacheInfo.from_json(self._http.json("GET", f"{self._path}/cache"))

    def prefetch(self, objects: str | Sequence[str] = "") -> Job:
        """Start to fetch objects from the bucket's backend, before they are read.

        Args:
            objects: a name, a prefix that ends in /, a pattern such as "train-{0000..0099}.tar",
                or a list of names; all by default.

        Example:
            >>> client.bucket("imagenet").prefetch("val-*.tar").wait(progress=True)
        """
        return Jobs(self._http).start("prefetch", **content_spec(self.name, objects))

    def evict(self, objects: str | Sequence[str] = "") -> Job:
        """Start to take cached objects away; the next read of one fetches it anew.

        Objects that were put into the cluster alone stay, and so do pinned ones.

        Args:
            objects: as for `prefetch`.
        """
        return Jobs(self._http).start("evict", **content_spec(self.name, objects))

    def exists(self) -> bool:
        """Whether the bucket is there."""
        try:
            self.info()
        except NotFoundError:
            return False
        return True

    def info(self) -> BucketInfo:
        """The bucket's properties."""
        return BucketInfo.from_json(self._http.json("GET", self._path))

    def drop(self, *, force: bool = False) -> None:
        """Remove the bucket; with force its objects as well.

        What a backend has stays there: of such a bucket the cached objects go, and force is needed
        only for those that were put into the cluster alone.

        Raises:
            ConflictError: it is not empty.
        """
        self._http.json("DELETE", self._path + ("?force=true" if force else ""))

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
            f"X-Shardstream-Meta-{name}": _header_text(f"meta[{name!r}]", value)
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
        body = _Body(data)
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
            info = ObjectInfo.from_json(_json(response))
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
            _verify(what, response, zlib.crc32(data), "X-Shardstream-Body-Checksum")
        elif response.status == 200 and not member:
            _verify(what, response, zlib.crc32(data))
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
                while chunk := response.read(_CHUNK):
                    total = zlib.crc32(chunk, total)
                    file.write(chunk)
            _verify(f"ss://{self.name}/{key}", response, total, checksum)
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


class _Body:
    """The bytes of a PUT: chunks that can be made again, their length, and their checksum."""

    def __init__(self, data: Data) -> None:
        self.crc32: int | None = None  # known beforehand, for bytes in memory
        self.sent_crc32 = 0
        self.length: int | None
        self._file: BinaryIO | None = None
        self._view: memoryview | None = None
        self._own = False
        if isinstance(data, (bytes, bytearray, memoryview)):
            self._view = memoryview(data).cast("B")
            self.length = len(self._view)
            self.crc32 = zlib.crc32(self._view)
            self.repeatable = True
            return
        if isinstance(data, (str, os.PathLike)):
            self._file, self._own = Path(data).open("rb"), True  # noqa: SIM115 (closed by close)
        elif not isinstance(data, _TEXT_FILES) and hasattr(data, "read"):
            self._file = data
        else:
            raise TypeError(
                "data must be bytes, a path or a file that is open for reading bytes "
                f"(mode 'rb'), not {type(data).__name__}"
            )
        try:
            self._start = self._file.tell()
            self.length = self._file.seek(0, os.SEEK_END) - self._start
            self._file.seek(self._start)
            self.repeatable = True
        except (OSError, AttributeError):  # a pipe, say: sent once, in chunks
            self.length = None
            self.repeatable = False

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The body from its beginning."""
        self.sent_crc32 = 0
        if self._view is not None:
            for at in range(0, len(self._view), _CHUNK):
                yield self._view[at : at + _CHUNK]
            self.sent_crc32 = self.crc32 or 0
            return
        assert self._file is not None
        if self.repeatable:
            self._file.seek(self._start)
        while chunk := self._file.read(_CHUNK):
            self.sent_crc32 = zlib.crc32(chunk, self.sent_crc32)
            yield chunk

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._own and self._file is not None:
            self._file.close()


def _header_text(name: str, value: str) -> str:
    """Text as a header carries it: http.client writes Latin-1, so its UTF-8 is spelled in that."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise ValueError(f"{name} must have no control characters: {value!r}")
    return value.encode().decode("latin-1")


def _json(response: Response) -> Any:
    return json.loads(response.read())


def _verify(
    what: str, response: Response, crc32: int, name: str = "X-Shardstream-Checksum"
) -> None:
    """Compare a body's checksum with the one that came with it, before or behind it."""
    value = response.headers.get(name) or response.trailers.get(name)
    expected = checksums(value).get("crc32")
    if expected and int(expected, 16) != crc32:
        raise IntegrityError(
            f"{what}: received bytes with crc32 {crc32:08x}, but {expected} was promised: read "
            "it again; if it persists, run `shardstream fsck`"
        )

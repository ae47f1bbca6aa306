"""A bucket: its properties, and what of its backend is in the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._arguments import erasure_code, flag, integer
from ._backends import (
    CacheInfo,
    argument_of,
    backend_properties,
    changed_backend,
    content_spec,
)
from ._exceptions import ConflictError, NotFoundError
from ._jobs import Job, Jobs
from ._models import BucketInfo
from ._objects import Objects


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


class Bucket(Objects):
    """A bucket's objects; made by `Client.bucket`."""

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
            change["backend"] = changed_backend(now, origin)
        if not change:
            raise TypeError("say what to change: mirror, ec, degraded, or how a backend is cached")
        return BucketInfo.from_json(self._http.json("PATCH", self._path, change))

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

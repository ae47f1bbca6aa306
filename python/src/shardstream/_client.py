"""The cluster's REST API for Python: the client, from which all else is reached."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ._arguments import text
from ._backends import Secrets
from ._bucket import Bucket
from ._etls import ETLs
from ._exceptions import ShardstreamError
from ._http import Transport
from ._jobs import Job, Jobs
from ._models import BucketInfo, Explanation
from ._rebalance import Rebalance

DEFAULT_ENDPOINT = "http://127.0.0.1:7070"
_DESCRIBING_PAUSE = 0.2  # seconds; an answer comes once there is something to say


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

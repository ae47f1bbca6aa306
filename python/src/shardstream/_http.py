"""HTTP to the cluster with the standard library: connections, deadlines, retries, redirects.

Not for the sample stream: that is the native loader's. Nothing here starts a thread, and a
forked child makes connections of its own, so a client works in any process.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from ._arguments import endpoint_url, seconds, token_text
from ._exceptions import (
    ClosedError,
    DeadlineError,
    RequestError,
    ShardstreamError,
    UnavailableError,
    from_code,
)
from ._version import __version__

Body = bytes | bytearray | memoryview | None
#: Makes the body anew for each attempt.
BodyFactory = Callable[[], Iterable[bytes | memoryview]]

_IDLE_PER_HOST = 4
_MAX_REDIRECTS = 5
#: A gateway that refuses connections is more likely not there than on its way.
_OTHER_PATIENCE = 10.0  # for one of several gateways
_GATEWAY_PATIENCE = 2.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRY_STATUS = frozenset({429, 502, 503, 504})
_ERROR_BODY_LIMIT = 1 << 20


class _Answer(http.client.HTTPResponse):
    """An answer that keeps what follows a chunked body, which http.client reads and drops."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trailers = http.client.HTTPMessage()

    def _read_and_discard_trailer(self) -> None:
        # Without this method of the standard library trailers would be empty, no more.
        for name, value in http.client.parse_headers(self.fp).items():
            self.trailers[name] = value


class Response:
    """An answer whose body has not been read yet; read it to its end, or close it."""

    def __init__(
        self,
        url: str,
        raw: http.client.HTTPResponse,
        connection: http.client.HTTPConnection,
        pool: _Pool,
        timeout: float,
    ) -> None:
        self.url = url
        self.status = raw.status
        self.headers = raw.headers
        #: Headers behind a chunked body; filled once that was read to its end.
        self.trailers = raw.trailers if isinstance(raw, _Answer) else http.client.HTTPMessage()
        self._raw: http.client.HTTPResponse | None = raw
        self._connection = connection
        self._pool = pool
        self._timeout = timeout

    def read(self, size: int = -1) -> bytes:
        """Read up to size bytes, or all; a body that ends early is an error."""
        if self._raw is None:
            return b""
        try:
            data = self._raw.read() if size < 0 else self._raw.read(size)
            if size > 0 and not data and self._raw.length:
                raise http.client.IncompleteRead(b"", self._raw.length)
        except TimeoutError as error:
            self.close()
            raise DeadlineError(
                f"{self.url}: no data for {self._timeout:g} s: raise the client's timeout, "
                "or look at `shardstream status`"
            ) from error
        except (http.client.HTTPException, OSError) as error:
            self.close()
            raise from_code(
                "incomplete_body", f"{self.url}: the body ended early: {error!r}"
            ) from error
        if size < 0 or not data or self._raw.isclosed():
            self._finish()
        return data

    def close(self) -> None:
        """Give up the rest of the body, and the connection with it."""
        if self._raw is not None:
            self._raw = None
            self._connection.close()

    def _finish(self) -> None:
        """Keep the connection for the next request, where the server will."""
        if self._raw is None:
            return
        reusable = self._raw.isclosed() and not self._raw.will_close
        self._raw = None
        if reusable:
            self._pool.put(self.url, self._connection)
        else:
            self._connection.close()


class _Pool:
    """Idle connections of one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}

    def get(self, url: str, timeout: float, reuse: bool) -> tuple[http.client.HTTPConnection, bool]:
        """A connection to the host of url, and whether it has been used before."""
        parts = urlsplit(url)
        with self._lock:
            idle = self._idle.get((parts.scheme, parts.netloc)) if reuse else None
            connection = idle.pop() if idle else None
        if connection is not None:
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            return connection, True
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(parts.netloc, timeout=timeout, blocksize=1 << 20)
        connection.response_class = _Answer
        return connection, False

    def put(self, url: str, connection: http.client.HTTPConnection) -> None:
        parts = urlsplit(url)
        with self._lock:
            idle = self._idle.setdefault((parts.scheme, parts.netloc), [])
            if len(idle) < _IDLE_PER_HOST:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, {}
        self._close_all(idle)

    def __del__(self) -> None:
        self._close_all(self._idle)  # in a forked child too: its copies of the parent's sockets

    @staticmethod
    def _close_all(idle: dict[tuple[str, str], list[http.client.HTTPConnection]]) -> None:
        for connections in idle.values():
            for connection in connections:
                connection.close()


class Transport:
    """Requests to one cluster.

    Args:
        endpoint: ``http://host:port`` of a gateway, or of several with commas between: another is
            asked where one does not answer.
        token: bearer token, sent to the endpoint's own origin only.
        timeout: seconds of silence after which a request fails; for requests without a large
            body it bounds the whole call, retries included.
        retry_for: seconds for which a request is repeated while a node that it needs is away.
    """

    def __init__(self, endpoint: str, token: str, timeout: float, retry_for: float) -> None:
        self.endpoint = endpoint_url(endpoint)
        self.timeout = seconds("timeout", timeout)
        self.retry_for = seconds("retry_for", retry_for, none=True)
        self._gateways = self.endpoint.split(",")
        self._at = 0  # the gateway that is asked now, counted on with each that fails
        self._origins = {urlsplit(gateway)[:2] for gateway in self._gateways}
        self._token = token_text(token)
        self._pool = _Pool()
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        return {
            "endpoint": self.endpoint,
            "token": self._token,
            "timeout": self.timeout,
            "retry_for": self.retry_for,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def patient(self, timeout: float) -> Transport:
        """A transport like this one for a request that may take so long; close it afterwards."""
        return Transport(self.endpoint, self._token, max(timeout, self.timeout), self.retry_for)

    def close(self) -> None:
        """Close the idle connections; further requests fail."""
        self._closed = True
        if self._pool.pid == os.getpid():
            self._pool.close()

    def json(
        self, method: str, path: str, document: Any = None, kind: str = "application/json"
    ) -> Any:
        """Send a request with a JSON body, or none, and return the JSON answer (None if empty)."""
        headers = {"Accept": "application/json"}
        body: Body = None
        if document is not None:
            body = json.dumps(document).encode()
            headers["Content-Type"] = kind
        # A POST here describes something and changes nothing, so it may be repeated as well.
        response = self.request(method, path, headers=headers, body=body)
        text = response.read()
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise from_code(
                "internal",
                f"{response.url} did not answer with JSON: is {self.endpoint} a shardstream "
                f"gateway? It said {text[:200]!r}",
                response.status,
            ) from error

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        stream: BodyFactory | None = None,
        length: int | None = None,
        retry: bool = True,
    ) -> Response:
        """Send a request, follow redirects, and return its answer; an error status raises.

        Args:
            method: the HTTP method.
            url: absolute, or a path below the endpoint.
            headers: further headers.
            body: bytes to send.
            stream: makes the body's chunks; called again for each attempt.
            length: the body's length where stream gives it; None sends it chunked.
            retry: whether the request may be sent twice (then also on a kept connection).
        """
        began = time.monotonic()
        pause = 0.05
        left = len(self._gateways) - 1  # others that may be there where one is not
        while True:
            at = self._at
            try:
                return self._follow(
                    method, url, dict(headers or {}), body, stream, length, began, retry
                )
            except (UnavailableError, DeadlineError) as error:
                now = time.monotonic()
                if self._at == at:
                    self._at = (at + 1) % len(self._gateways)
                if left > 0 and self._refused(error):
                    left -= 1  # nothing was sent
                    continue
                if stream is not None and pause == 0.05:
                    began = now  # the upload itself took its time
                pause = min(2 * pause, 1.0)
                wait = pause * (0.5 + random.random() / 2)
                if not retry or now + wait > began + self._patience(error):
                    raise
                time.sleep(wait)

    def _patience(self, error: ShardstreamError) -> float:
        """For how long a request is repeated after this error."""
        if error.status is not None and error.status not in _RETRY_STATUS:
            return 0.0
        # The one does not pass by itself; the other may take any time: the caller knows what for.
        if error.code in ("too_few_targets", "describing"):
            return 0.0
        if self._refused(error):
            return min(self.retry_for, _GATEWAY_PATIENCE)
        return min(self.retry_for, self.timeout)

    def _refused(self, error: ShardstreamError) -> bool:
        """Whether no gateway was there to take the request."""
        return isinstance(error.__cause__, ConnectionRefusedError) and any(
            gateway in str(error) for gateway in self._gateways
        )

    def _follow(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body,
        stream: BodyFactory | None,
        length: int | None,
        began: float,
        retry: bool,
    ) -> Response:
        if url.startswith("/"):
            url = self._gateways[self._at] + url  # as it stands: joining would resolve .. in a key
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._send(method, url, headers, body, stream, length, began, retry)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                break
            response.read()
            url = urljoin(url, location)
        else:
            raise RequestError(f"{method} {url}: more than {_MAX_REDIRECTS} redirects")
        if response.status >= 400:
            raise _error_of(method, response)
        return response

    def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body,
        stream: BodyFactory | None,
        length: int | None,
        began: float,
        retry: bool,
    ) -> Response:
        """One exchange; a kept connection that the server has closed meanwhile is replaced."""
        if self._closed:
            raise ClosedError("this client is closed: make another Client()")
        if self._pool.pid != os.getpid():
            self._pool = _Pool()  # forked: the parent's connections are the parent's
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        sent = {"User-Agent": f"shardstream-python/{__version__}", **headers}
        if self._token and parts[:2] in self._origins:
            sent["Authorization"] = f"Bearer {self._token}"
        if stream is not None and length is not None:
            sent["Content-Length"] = str(length)
        while True:
            silence = self.timeout
            if method == "GET" and len(self._gateways) > 1 and parts[:2] in self._origins:
                silence = min(silence, _OTHER_PATIENCE)  # another may answer
            if stream is None:
                silence = max(0.001, min(silence, began + self.timeout - time.monotonic()))
            connection, used = self._pool.get(url, silence, retry)
            try:
                if connection.sock is None:
                    connection.connect()
                connection.request(
                    method,
                    target,
                    body=body if stream is None else stream(),
                    headers=sent,
                    encode_chunked=stream is not None and length is None,
                )
                raw = connection.getresponse()
            except TimeoutError as error:
                connection.close()
                raise DeadlineError(
                    f"{method} {url}: no answer within {silence:.3g} s: is the node alive? "
                    "(`shardstream status`)"
                ) from error
            except (http.client.HTTPException, OSError) as error:
                early = self._early_answer(url, connection, error)
                if early is not None:
                    return early
                connection.close()
                if used:
                    continue  # it went stale in the pool: that says nothing about the server
                raise UnavailableError(
                    f"{method} {url}: can't reach the cluster: {error}. Is it up, and is "
                    "SHARDSTREAM_ENDPOINT right?"
                ) from error
            except BaseException:
                connection.close()
                raise
            return Response(url, raw, connection, self._pool, self.timeout)

    def _early_answer(
        self, url: str, connection: http.client.HTTPConnection, error: Exception
    ) -> Response | None:
        """An error that the server sent while it refused the rest of a body, if it did."""
        if not isinstance(error, (BrokenPipeError, ConnectionResetError)):
            return None
        if connection.sock is None:
            return None
        try:
            raw = _Answer(connection.sock, method="PUT")
            raw.begin()
        except (http.client.HTTPException, OSError):
            return None
        if raw.status < 400 and raw.status not in _REDIRECTS:
            return None
        raw.will_close = True
        return Response(url, raw, connection, self._pool, self.timeout)


def _error_of(method: str, response: Response) -> Exception:
    """The exception for an answer with an error status."""
    text = response.read(_ERROR_BODY_LIMIT)
    response.close()
    code, message = response.headers.get("X-Shardstream-Error") or "", ""
    try:
        document = json.loads(text)["error"]
        code, message = str(document["code"]), str(document["message"])
    except (ValueError, KeyError, TypeError):
        message = text.decode(errors="replace").strip()[:500]
    if not message:  # to HEAD
        message = unquote(response.headers.get("X-Shardstream-Error-Message") or "")
    if not message:
        path = urlsplit(response.url).path
        message = f"{method} {path}: {http.client.responses.get(response.status, 'error')}"
    return from_code(code, message, response.status)

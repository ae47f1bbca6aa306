"""What a server answers to which request."""

from __future__ import annotations

import http.client
import http.server
import itertools
import json
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ._bodies import Body, Chunks, GoneError, RequestError
from ._function import ArgumentsError, fault_of
from ._samples import (
    CONTENT_TYPE,
    MAGIC,
    Fault,
    MalformedError,
    Sample,
    encode_end,
    read_message,
)
from ._values import Buffer

if TYPE_CHECKING:
    from ._server import Server

DRAIN = 8 << 20  # bytes of a request that are read for the sake of the connection
IDLE_S = 300
# The node is near, whatever proxies the environment names.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection, and its requests one after another."""

    protocol_version = "HTTP/1.1"
    server_version = f"shardstream-etl/{__version__}"
    timeout = IDLE_S
    rbufsize = wbufsize = 64 << 10
    server: Server  # type: ignore[assignment]

    def setup(self) -> None:
        """Prepare the connection."""
        if self.request.family != socket.AF_UNIX:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        super().setup()

    def address_string(self) -> str:
        """Name the client; one of a Unix socket has no name."""
        return str(self.client_address[0]) if self.client_address else "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests that go well: failures are printed where they happen."""

    def handle_one_request(self) -> None:
        """Wait for a request and answer it."""
        self.server.idle(self.connection)
        try:
            super().handle_one_request()
        except (GoneError, OSError):
            self.close_connection = True

    def parse_request(self) -> bool:
        """Read the head of a request."""
        self.server.busy(self.connection)
        self.begun = self.unread = False
        self.body: Body | None = None
        return super().parse_request()

    def do_GET(self) -> None:
        """Answer whether the server works, or transform what the node has."""
        path, _, query = self.path.partition("?")
        if path in ("/health", "/"):
            self.reply(200, json.dumps(self.server.describe()).encode(), "application/json")
        else:
            self.run(lambda: self.pull(path, query))

    def do_PUT(self) -> None:
        """Transform the object that the request carries."""
        self.run(lambda: self.push(self.path.partition("?")[2]))

    def do_POST(self) -> None:
        """Transform the samples that the request carries."""
        path, _, query = self.path.partition("?")
        self.run(lambda: self.samples(path, query))

    def run(self, answer: Callable[[], None]) -> None:
        """Answer a request in its turn, whatever becomes of it."""
        self.close_connection = self.close_connection or self.server.one_request
        try:
            with self.server.turn:
                answer()
        except GoneError:
            raise
        except RequestError as error:
            self.fail(error)
        except (ArgumentsError, MalformedError) as error:
            self.fail(RequestError(400, str(error)))
        except (Exception, SystemExit) as error:
            if self.body is not None and self.body.failed:
                raise GoneError from None
            fault = fault_of(error)
            print(f"{self.path}: {fault.traceback or fault.summary}", file=sys.stderr, flush=True)
            self.fail(RequestError(422, fault.summary, fault.traceback))
        self.drain()

    def push(self, query: str) -> None:
        """Transform the body."""
        self.expect_level("object")
        arguments, _ = arguments_of(query)
        self.server.function.bind(arguments)
        self.transform(self.body_of_request(), arguments)

    def pull(self, path: str, query: str) -> None:
        """Transform what the node has at the same path."""
        self.expect_level("object")
        arguments, rest = arguments_of(query)
        self.server.function.bind(arguments)
        if not self.server.target:
            raise RequestError(
                503, "SHARDSTREAM_TARGET_URL is not set: there is no node to read objects from"
            )
        url = self.server.target + path + ("?" + rest if rest else "")
        request = self.headers.get("X-Request-Id")
        headers = {} if request is None else {"X-Request-Id": request}
        with open_url(url, headers, self.server.timeout) as response:
            length = response.headers.get("Content-Length")
            # Without a length http.client undoes the chunks, and says so where they break off.
            body = response if length is None else Body(response, int(length), cut_by_target)
            self.transform(body, arguments)

    def transform(self, body: Any, arguments: dict[str, Any]) -> None:
        """Send what the function makes of an object."""
        function = self.server.function
        if not function.stream:
            if isinstance(body, Body):
                body.bound(self.server.max_body)
            body = body.read()
        result = function.object(body, arguments)
        if isinstance(result, bytes):
            self.reply(200, result, self.server.content_type)
        else:
            self.stream(result, self.server.content_type)

    def samples(self, path: str, query: str) -> None:
        """Transform the samples of the body."""
        if path != "/samples":
            raise RequestError(404, f"POST {path}: samples go to /samples")
        self.expect_level("sample", "batch")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind != CONTENT_TYPE:
            raise RequestError(415, f"content type {kind!r}: send {CONTENT_TYPE}")
        arguments, _ = arguments_of(query)
        function = self.server.function
        function.bind(arguments)
        body = self.body_of_request()
        if function.level == "batch":
            body.bound(self.server.max_body)
        items = samples_of(body, self.server.max_body)
        if function.level == "batch":
            answers = function.batch(list(items), arguments)
        else:
            answers = function.samples(items, arguments)
        self.stream(message(answers), CONTENT_TYPE)

    def expect_level(self, *levels: str) -> None:
        """Refuse what is for another level."""
        level = self.server.function.level
        if level not in levels:
            use = "PUT /BUCKET/KEY" if level == "object" else "POST /samples"
            raise RequestError(409, f"this server transforms at level {level!r}: use {use}")

    def body_of_request(self) -> Body:
        """Return the body, of a known length or in chunks."""
        if self.body is not None:
            return self.body
        coding = self.headers.get("Transfer-Encoding")
        length = self.headers.get("Content-Length", "0")
        if coding is not None and coding.strip().lower() != "chunked":
            self.close_connection = True
            raise RequestError(501, f"transfer encoding {coding!r}")
        if coding is None and not (length.isascii() and length.isdigit()):
            self.close_connection = True
            raise RequestError(400, f"content length {length!r}")
        self.body = Body(self.rfile, int(length) if coding is None else None)
        return self.body

    def reply(self, status: int, body: bytes, content_type: str) -> None:
        """Send a whole answer."""
        self.head(status, content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def stream(self, chunks: Iterator[Buffer], content_type: str) -> None:
        """Send an answer as it is made; nothing is sent before its first part is there."""
        first = next(chunks, b"")
        chunked = self.request_version != "HTTP/1.0"
        self.close_connection = self.close_connection or not chunked
        self.head(200, content_type)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        out = Chunks(self.wfile, chunked)
        out.write(first)
        for chunk in chunks:
            out.write(chunk)
        out.end()

    def head(self, status: int, content_type: str) -> None:
        """Begin an answer."""
        self.begun = True
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if self.close_connection or self.server.stopping:
            self.send_header("Connection", "close")

    def fail(self, error: RequestError) -> None:
        """Answer with an error."""
        if self.begun:
            # It has no end mark, so that nobody takes it for whole.
            raise GoneError
        self.reply(error.status, error.text.encode("utf-8", "replace"), "text/plain; charset=utf-8")

    def drain(self) -> None:
        """Read what is left of the request, so that the next one can be read."""
        try:
            body = self.body_of_request()
            body.bound(DRAIN)
            while body.read(64 << 10):
                pass
        except RequestError:
            self.close_connection = self.unread = True


def samples_of(body: Body, max_payload: int) -> Iterator[Sample]:
    """Read the samples of a request."""
    for item in read_message(body, max_payload=max_payload):
        if isinstance(item, Fault):
            raise MalformedError("a fault among the samples of a request")
        yield item


def message(answers: Iterator[list[Buffer]]) -> Iterator[Buffer]:
    """Make a message of answers."""
    # The first is made before anything is sent, for the sake of a request that makes no sense.
    answers = itertools.chain(list(itertools.islice(answers, 1)), answers)
    yield MAGIC
    count = 0
    for parts in answers:
        count += 1
        yield from parts
    yield encode_end(count)


def arguments_of(query: str) -> tuple[dict[str, Any], str]:
    """Return the arguments in a query, and what else is there."""
    rest: list[str] = []
    arguments: Any = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name != "etl_args":
            rest += [part] if part else []
            continue
        text = urllib.parse.unquote_plus(value)
        try:
            arguments = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise RequestError(400, f"etl_args is not JSON: {error}") from None
        if not isinstance(arguments, dict):
            raise RequestError(
                400, f'etl_args is {text[:80]}, not a JSON object such as {{"size": 224}}'
            )
    return arguments, "&".join(rest)


def open_url(url: str, headers: dict[str, str], timeout: float) -> Any:
    """Read from the node; its errors become ours."""
    try:
        return OPENER.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            told = error.read(4096).decode("utf-8", "replace")
        status = error.code if error.code in (403, 404, 412, 416, 429, 503) else 502
        raise RequestError(status, f"the node answered {error.code}: {told}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise RequestError(502, f"the node can't be read: {reason}") from None


def cut_by_target(why: str) -> RequestError:
    """Say that what the node sent is not whole."""
    return RequestError(502, f"the node's answer broke off: {why}")

"""The transport against servers that misbehave."""

from __future__ import annotations

import http.server
import json
import pickle
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import shardstream as ss
from shardstream._http import Transport

Reply = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.server.requests.append(self)
        replies = self.server.replies
        (replies.pop(0) if len(replies) > 1 else replies[0])(self)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """Answers with its replies one after the other, the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = [ok]
        self.requests: list[Handler] = []
        self.connections = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def ok(handler: Handler) -> None:
    handler.answer(200, b'{"ok": true}')


def error(status: int, code: str, message: str = "said the server") -> Reply:
    document = json.dumps({"error": {"code": code, "message": message}}).encode()
    return lambda handler: handler.answer(status, document)


def hang_up(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def transport(server: Server, **options: Any) -> Transport:
    return Transport(server.url, **{"token": "", "timeout": 5.0, "retry_for": 4.0, **options})


def test_one_connection_serves_many_requests(server: Server) -> None:
    http = transport(server)
    for _ in range(5):
        assert http.json("GET", "/x") == {"ok": True}
    assert server.connections == 1
    http.close()


def test_a_kept_connection_that_went_stale_is_replaced(server: Server) -> None:
    http = transport(server, retry_for=0)
    server.replies = [ok, hang_up, ok]
    http.json("GET", "/x")
    assert http.json("GET", "/x") == {"ok": True}
    assert server.connections == 2
    http.close()


def test_what_passes_is_tried_again(server: Server) -> None:
    http = transport(server)
    server.replies = [hang_up, error(503, "unavailable"), error(429, "busy"), ok]
    assert http.json("GET", "/x") == {"ok": True}
    assert len(server.requests) == 4
    http.close()


def test_another_gateway_is_asked(server: Server) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{probe.getsockname()[1]}"
    http = Transport(f"{gone}, {server.url}/", "secret", 5.0, 4.0)
    response = http.request("POST", "/x", retry=False)  # nothing was sent to the one that is gone
    assert response.read() == b'{"ok": true}'
    assert server.requests[0].headers["Authorization"] == "Bearer secret"
    assert http.json("GET", "/x") == {"ok": True}
    assert http.endpoint == f"{gone},{server.url}"
    http.close()
    with pytest.raises(ValueError, match="nonsense"):
        Transport(f"{server.url},nonsense", "", 5.0, 4.0)


def test_retries_end(server: Server) -> None:
    server.replies = [error(503, "unavailable", "a node is away")]
    with pytest.raises(ss.UnavailableError, match="a node is away"):
        transport(server, retry_for=0.5).json("GET", "/x")
    assert len(server.requests) >= 3


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad_name", ss.RequestError),
        (404, "no_such_bucket", ss.NotFoundError),
        (409, "bucket_not_empty", ss.ConflictError),
        (412, "precondition", ss.PreconditionError),
        (416, "range", ss.RangeError),
        (422, "etl_failed", ss.ETLError),
        (500, "corrupt", ss.CorruptError),
        (500, "internal", ss.InternalError),
        (507, "no_space", ss.NoSpaceError),
        (418, "teapot", ss.RequestError),
        (404, "not_known_yet", ss.NotFoundError),
    ],
)
def test_refusals_are_errors_at_once(
    server: Server, status: int, code: str, kind: type[ss.ShardstreamError]
) -> None:
    server.replies = [error(status, code)]
    with pytest.raises(kind, match="said the server") as caught:
        transport(server).json("GET", "/x")
    assert (caught.value.code, caught.value.status) == (code, status)
    assert len(server.requests) == 1
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.code) == (kind, "said the server", code)


def test_the_code_of_a_head_is_in_a_header(server: Server) -> None:
    server.replies = [lambda h: h.answer(404, X_Shardstream_Error="no_such_bucket")]
    with pytest.raises(ss.NotFoundError) as caught:
        transport(server).request("HEAD", "/v1/objects/b/k")
    assert caught.value.code == "no_such_bucket"


def test_errors_without_a_document(server: Server) -> None:
    server.replies = [lambda h: h.answer(502, b"<html>proxy</html>")]
    with pytest.raises(ss.InternalError, match="proxy"):
        transport(server, retry_for=0).json("GET", "/x")


def test_an_answer_that_is_no_json(server: Server) -> None:
    server.replies = [lambda h: h.answer(200, b"<html>")]
    with pytest.raises(ss.InternalError, match="a shardstream gateway"):
        transport(server).json("GET", "/x")


def test_redirects_are_followed_with_the_body_and_without_the_token(server: Server) -> None:
    with Server() as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        server.replies = [lambda h: h.answer(307, Location=other.url + "/there?x=1")]
        http = transport(server, token="secret")
        answer = http.request("PUT", "/here", stream=lambda: iter([b"bo", b"dy"]), length=4)
        answer.read()
        http.close()
        other.shutdown()
        thread.join()
    assert server.requests[0].headers["Authorization"] == "Bearer secret"
    assert other.requests[0].headers["Authorization"] is None
    assert (other.requests[0].path, other.requests[0].body) == ("/there?x=1", b"body")


def test_redirects_end(server: Server) -> None:
    server.replies = [lambda h: h.answer(307, Location="/again")]
    with pytest.raises(ss.RequestError, match="more than 5 redirects"):
        transport(server).json("GET", "/x")


def test_silence_is_an_error_in_time(server: Server) -> None:
    held = threading.Event()
    server.replies = [lambda handler: setattr(handler, "held", held.wait(10))]
    start = time.monotonic()
    with pytest.raises(ss.DeadlineError, match="no answer within"):
        transport(server, timeout=0.3).json("GET", "/x")
    assert time.monotonic() - start < 3
    held.set()


@pytest.mark.parametrize("size", [-1, 10])
def test_a_body_that_ends_early_is_an_error(server: Server, size: int) -> None:
    def short(handler: Handler) -> None:
        handler.answer(200, b"12345", Content_Length="50")
        handler.close_connection = True

    server.replies = [short]
    response = transport(server).request("GET", "/x")
    with pytest.raises(ss.IntegrityError, match="ended early"):
        while response.read(size):
            pass


def test_a_refusal_in_the_middle_of_a_body_is_heard(server: Server) -> None:
    class Refuses(threading.Thread):
        def run(self) -> None:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                self.port = listener.getsockname()[1]
                ready.set()
                peer, _ = listener.accept()
                peer.recv(100)
                body = b'{"error": {"code": "no_space", "message": "disk full"}}'
                peer.sendall(b"HTTP/1.1 507 X\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(1 << 20):
                    pass
                peer.close()

    ready = threading.Event()
    thread = Refuses()
    thread.start()
    ready.wait(5)
    http = Transport(f"http://127.0.0.1:{thread.port}", "", 5.0, 0.0)
    with pytest.raises(ss.NoSpaceError, match="disk full"):
        http.request("PUT", "/x", stream=lambda: iter([bytes(1 << 20)] * 8), length=8 << 20)
    http.close()
    thread.join()


def test_dots_in_a_key_are_sent_as_they_are(server: Server) -> None:
    transport(server).json("GET", "/v1/objects/b/../k")
    assert server.requests[0].path == "/v1/objects/b/../k"


def test_a_transport_pickles_without_its_connections(server: Server) -> None:
    http = transport(server, token="t")
    http.json("GET", "/x")
    copy = pickle.loads(pickle.dumps(http))
    assert copy.json("GET", "/x") == {"ok": True}
    assert server.connections == 2
    http.close()
    copy.close()


def chunks(*parts: bytes, trailer: str = "", end: bool = True) -> Reply:
    def reply(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for part in parts:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        if end:
            handler.wfile.write(b"0\r\n" + trailer.encode() + b"\r\n")
        handler.close_connection = not end

    return reply


def test_checksums_behind_a_chunked_body(server: Server) -> None:
    good = f"X-Shardstream-Body-Checksum: crc32={zlib.crc32(b'hello'):08x}\r\n"
    bad = "X-Shardstream-Body-Checksum: crc32=00000001\r\n"
    server.replies = [
        chunks(b"hel", b"lo", trailer=good),
        chunks(b"hel", b"lo"),
        chunks(b"hel", b"lo", trailer=bad),
        chunks(b"hel", end=False),
    ]
    bucket = ss.Client(server.url, retry_for=0).bucket("b")
    assert bucket.get("k", etl="x") == b"hello"
    assert bucket.get("k", etl="x") == b"hello"
    with pytest.raises(ss.IntegrityError, match="promised"):
        bucket.get("k", etl="x")
    with pytest.raises(ss.IntegrityError, match="ended early"):
        bucket.get("k", etl="x")
    assert server.connections == 1  # the trailer was read, so the connection was kept


def test_a_redirect_to_another_host_gets_no_token(server: Server) -> None:
    other = Server()
    threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
    try:
        other.replies = [lambda handler: handler.answer(200, b"made there")]
        server.replies = [lambda h: h.answer(307, Location=f"{other.url}/b/k?etl_args=%7B%7D")]
        with ss.Client(server.url, token="secret") as client:
            assert client.bucket("b").get("k", etl="x") == b"made there"
        assert server.requests[0].headers["Authorization"] == "Bearer secret"
        assert "Authorization" not in other.requests[0].headers
        assert other.requests[0].path == "/b/k?etl_args=%7B%7D"
    finally:
        other.shutdown()
        other.server_close()

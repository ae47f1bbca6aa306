"""Servers of the package, asked by plain HTTP."""

from __future__ import annotations

import http.client
import http.server
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from etlclients import peer, served, wait_for
from shardstream.etl import serve, serving


def upper(data: bytes, suffix: str = "") -> bytes:
    return data.upper() + suffix.encode()


def test_a_function_is_served() -> None:
    with serving(upper) as url, peer(url) as one:
        health = one.ask("GET", "/health")
        assert health.status == 200
        assert b'"level": "object"' in health.body
        assert one.ask("PUT", "/bucket/key.txt", b"hello").body == b"HELLO"
        assert one.ask("PUT", "/", b"").body == b""
        assert one.ask("PUT", "/b/k", b"x", args={"suffix": "!"}).body == b"X!"


def test_bodies_may_come_in_chunks() -> None:
    with serving(upper) as url, peer(url) as one:
        assert (
            one.ask("PUT", "/b/k", iter([b"ab", b"", b"c" * 100_000])).body == b"AB" + b"C" * 10**5
        )
        assert one.ask("PUT", "/b/k", iter([])).body == b""


def test_large_objects_pass() -> None:
    data = os.urandom(1 << 20) * 20
    with serving(lambda data: data) as url, peer(url) as one:
        answer = one.ask("PUT", "/b/k", data)
    assert answer.body == data
    assert answer.headers["content-length"] == str(len(data))


def test_a_connection_serves_many_requests() -> None:
    with serving(upper) as url, peer(url) as one:
        one.ask("PUT", "/b/k", b"a")
        first = one.connection.sock
        assert one.ask("PUT", "/b/k", b"b").body == b"B"
        assert one.ask("PUT", "/b/k", b"x", args=[]).status == 400
        assert one.ask("PUT", "/b/k", b"c").body == b"C"
        assert one.connection.sock is first


def test_streams_are_read_and_made_piece_by_piece() -> None:
    """The first piece of the answer is there before the last of the request is sent."""

    def double(data: BinaryIO) -> Iterator[bytes]:
        while piece := data.read(100_000):
            yield piece * 2

    with serving(double) as url, peer(url) as one:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            raw.sendall(
                b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"a" * 100_000
            )
            response = http.client.HTTPResponse(raw)
            response.begin()
            assert response.read(200_000) == b"a" * 200_000
            raw.sendall(b"b" * 100_000)
            assert response.read() == b"b" * 200_000
        assert one.ask("PUT", "/b/k", b"xyz").body == b"xyzxyz"


def file(data: BinaryIO) -> BinaryIO:
    return io.BytesIO(data.read(3))


def text(data: bytes) -> Iterator[str]:
    yield "ä"


@pytest.mark.parametrize(
    ("function", "want"),
    [
        (file, b"abc"),
        (text, "ä".encode()),
        (lambda d: bytearray(d), b"abcdef"),
        (lambda d: "s", b"s"),
    ],
)
def test_objects_are_returned_in_several_ways(function: Any, want: bytes) -> None:
    with serving(function) as url, peer(url) as one:
        assert one.ask("PUT", "/b/k", b"abcdef").body == want
        assert one.ask("PUT", "/b/k", b"abcdef").body == want


def test_an_exception_is_the_answer() -> None:
    def broken(data: bytes) -> bytes:
        raise ValueError("too dark")

    with serving(broken) as url, peer(url) as one:
        answer = one.ask("PUT", "/b/k", b"x" * 100_000)
        assert answer.status == 422
        first, _, rest = answer.body.decode().partition("\n")
        assert first == "ValueError: too dark"
        assert 'raise ValueError("too dark")' in rest
        assert "shardstream/etl" not in rest, "frames of the server are none of the user's"
        assert one.ask("GET", "/health").status == 200


def leave(data: bytes) -> bytes:
    sys.exit(3)


def gone(data: bytes) -> bytes:
    raise ConnectionResetError("of the function's own")


@pytest.mark.parametrize(
    ("function", "want"),
    [
        (leave, "SystemExit: 3"),
        (gone, "ConnectionResetError"),
        (lambda data: 1, "returned int"),
        (lambda data: iter([1]), "yielded int"),
    ],
)
def test_whatever_a_function_does_is_an_answer(function: Any, want: str) -> None:
    with serving(function) as url, peer(url) as one:
        answer = one.ask("PUT", "/b/k", b"x")
        assert answer.status == 422
        assert want in answer.body.decode()


def test_an_answer_that_fails_midway_does_not_look_whole() -> None:
    def broken(data: bytes) -> Iterator[bytes]:
        yield b"x" * 100_000
        raise ValueError("too late")

    with serving(broken) as url, peer(url) as one:
        with pytest.raises(http.client.IncompleteRead):
            one.ask("PUT", "/b/k", b"x")
        with peer(url) as another:
            assert another.ask("GET", "/health").status == 200


@pytest.mark.parametrize(
    ("query", "want"),
    [
        ("etl_args={", "not JSON"),
        ("etl_args=[1]", "not a JSON object"),
        ("etl_args=%7B%22size%22%3A1%7D", "suffix"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(query: str, want: str) -> None:
    with serving(upper) as url, peer(url) as one:
        answer = one.ask("PUT", "/b/k?" + query, b"x")
        assert answer.status == 400
        assert want in answer.body.decode()


def test_wrong_levels_paths_and_types_are_refused() -> None:
    with serving(upper) as url, peer(url) as one:
        assert one.ask("POST", "/samples", b"").status == 409
        assert one.ask("POST", "/else", b"").status == 404
        assert one.ask("DELETE", "/b/k").status == 501
        assert one.ask("GET", "/b/k").status == 503, "no target to read from"
    with serving(lambda s: s, level="sample") as url, peer(url) as one:
        assert one.ask("PUT", "/b/k", b"x" * 100_000).status == 409
        assert one.ask("POST", "/samples", b"{}").status == 415


def test_what_does_not_fit_into_memory_is_refused() -> None:
    with serving(upper, max_body=1000) as url, peer(url) as one:
        assert one.ask("PUT", "/b/k", b"x" * 1000).status == 200
        answer = one.ask("PUT", "/b/k", b"x" * 1001)
        assert answer.status == 413
        assert b"BinaryIO" in answer.body
        assert one.ask("PUT", "/b/k", iter([b"x" * 600, b"x" * 600])).status == 413
        assert one.ask("PUT", "/b/k", b"x" * (30 << 20)).status == 413, "which is more than is read"


@pytest.mark.parametrize(
    "request_",
    [
        b"PUT /b/k HTTP/1.1\r\nContent-Length: 10\r\n\r\nshort",
        b"PUT /b/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"PUT /b/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
        b"PUT /b/k HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nxx",
        b"nonsense\r\n\r\n",
    ],
)
def test_a_short_or_senseless_request_is_never_transformed(request_: bytes) -> None:
    calls: list[bytes] = []

    def remember(data: bytes) -> bytes:
        calls.append(data)
        return data

    with serving(remember) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            raw.sendall(request_)
            raw.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: raw.recv(1000), b""))
        assert not answer.startswith(b"HTTP/1.1 200")
        wait_for(url)
    assert calls == []


class Target(http.server.BaseHTTPRequestHandler):
    """A node's objects."""

    def do_GET(self) -> None:
        if self.path == "/v1/objects/b/missing":
            self.send_error(404, "no such object")
            return
        body = f"{self.path} {self.headers.get('X-Request-Id')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + ("short" in self.path)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def target() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Target)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/objects"
    server.shutdown()
    thread.join()
    server.server_close()


def test_objects_are_read_from_the_node(target: str) -> None:
    with serving(upper, target=target) as url, peer(url) as one:
        asked = "/b/a%20b/c;member=1.jpg?version=3"
        answer = one.ask(
            "GET", asked + "&etl_args=%7B%22suffix%22%3A%22x%22%7D", headers={"X-Request-Id": "r1"}
        )
        assert answer.body.decode() == f"/v1/objects{asked} r1".upper() + "x"
        missing = one.ask("GET", "/b/missing")
        assert missing.status == 404
        assert b"no such object" in missing.body
        assert one.ask("GET", "/b/short").status == 502
    with serving(upper, target="http://127.0.0.1:1") as url, peer(url) as one:
        assert one.ask("GET", "/b/k").status == 502


def test_a_stream_from_the_node_that_is_cut_fails(target: str) -> None:
    def pass_on(data: BinaryIO) -> Iterator[bytes]:
        while piece := data.read(10):
            yield piece

    with serving(pass_on, target=target) as url, peer(url) as one:
        assert one.ask("GET", "/b/whole").body == b"/v1/objects/b/whole None"
        with pytest.raises(http.client.IncompleteRead):
            one.ask("GET", "/b/short")


SLOW = """
import os, time
def transform(data):
    time.sleep(float(data or b"0"))
    return str(os.getpid()).encode()
"""


def test_a_file_is_served_on_a_socket_until_sigterm(tmp_path: Path) -> None:
    with served(SLOW, tmp_path) as (path, process), peer(path) as one, peer(path) as idle:
        assert idle.ask("GET", "/health").status == 200
        assert one.ask("PUT", "/b/k", b"0").body == str(process.pid).encode()
        one.connection.request("PUT", "/b/k", body=b"1")
        wait_for(path)  # the request before it was accepted
        process.send_signal(signal.SIGTERM)
        response = one.connection.getresponse()
        assert response.read() == str(process.pid).encode(), "what is under way is finished"
        assert response.headers["Connection"] == "close"
        assert process.wait(30) == 0
    with served(SLOW, tmp_path) as (path, _), peer(path) as one:
        assert one.ask("PUT", "/b/k").status == 200, "a socket that was left behind is no obstacle"


def test_processes_share_the_work_and_are_replaced(tmp_path: Path) -> None:
    with served(SLOW, tmp_path, "--processes", "2") as (path, process):
        pids: list[int] = []

        def ask() -> None:
            with peer(path) as one:
                pids.append(int(one.ask("PUT", "/b/k", b"1").body))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_for(path)  # health is answered while all of them work
        for thread in threads:
            thread.join()
        assert len(set(pids)) == 2
        assert process.pid not in pids
        os.kill(pids[0], signal.SIGKILL)
        deadline = time.monotonic() + 30
        seen: set[int] = set()
        while not seen - set(pids):
            assert time.monotonic() < deadline
            with peer(path) as one:
                seen.add(int(one.ask("PUT", "/b/k", b"0.05").body))
    for pid in {*pids, *seen}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_children_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    with served(SLOW, tmp_path, "--processes", "2") as (path, process):
        with peer(path) as one:
            child = int(one.ask("PUT", "/b/k", b"0").body)
        process.kill()
        deadline = time.monotonic() + 30
        while True:
            try:
                os.kill(child, 0)
            except ProcessLookupError:
                break
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("env", "want"),
    [
        ({"SHARDSTREAM_LISTEN": "127.0.0.1:{port}"}, "127.0.0.1"),
        ({"PORT": "{port}"}, "0.0.0.0"),
        ({"SHARDSTREAM_LISTEN": "127.0.0.1:{port}", "PORT": "1"}, "127.0.0.1"),
    ],
)
def test_the_environment_says_where_to_listen(
    env: dict[str, str], want: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "f.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-m", "shardstream.etl", str(tmp_path / "f.py")],
        env={**os.environ, **{k: v.format(port=port) for k, v in env.items()}},
    )
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        listening = [row[1] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
        assert [bytes.fromhex(a.split(":")[0])[::-1] for a in listening] == [socket.inet_aton(want)]
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(
    ("options", "want"),
    [
        (["--entry", "absent"], "has no function 'absent'; it has transform"),
        (["--address", "nowhere"], "give HOST:PORT"),
        (["--processes", "-1"], "processes is a whole number of 0 or more, not -1"),
        (["--level", "row"], "invalid choice"),
        (["--address", "/no/such/directory/socket"], "can't listen at /no/such"),
    ],
)
def test_the_command_says_what_is_wrong(options: list[str], want: str, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def transform(data): return data\n")
    done = subprocess.run(
        [sys.executable, "-m", "shardstream.etl", str(tmp_path / "f.py"), *options],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (1, 2)
    assert want in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("def transform(data)\n", "SyntaxError"),
        ("import absent_module\n", "ModuleNotFoundError: No module named 'absent_module'"),
        ("open('absent')\n", "FileNotFoundError"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_file_that_does_not_load_is_shown_where_it_fails(
    source: str, want: str, tmp_path: Path
) -> None:
    (tmp_path / "f.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "shardstream.etl", str(tmp_path / "f.py")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "f.py does not load" in done.stderr
    assert want in done.stderr
    assert 'f.py", line 1' in done.stderr
    assert "importlib" not in done.stderr, "frames of the loader are none of the user's"


async def asynchronous(data: bytes) -> bytes:
    return data


@pytest.mark.parametrize(
    ("function", "options", "want"),
    [
        (asynchronous, {}, "plain def"),
        (lambda: b"", {}, "can't be called"),
        (lambda data, size: b"", {}, "size"),
        (upper, {"level": "row"}, "'row'"),
        (3, {}, "not a function"),
        (upper, {"threads": 0}, "threads is a whole number of 1 or more"),
    ],
)
def test_what_can_not_be_served_is_refused_at_once(function: Any, options: Any, want: str) -> None:
    with pytest.raises((TypeError, ValueError), match=want):
        serve(function, address="127.0.0.1:0", **options)


def test_the_module_is_light(tmp_path: Path) -> None:
    code = (
        "import sys, shardstream.etl; "
        "print([m for m in ('numpy', 'torch', 'shardstream._native') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

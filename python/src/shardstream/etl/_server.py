"""A server: where it listens, its threads and processes, and how it ends."""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from ._function import Function
from ._handler import Handler

DEFAULT_PORT = 8000
BACKLOG = 512
MAX_CONNECTIONS = 256
OVERFLOW_S = 0.05  # a process that is busy leaves connections to others for as long
LINGER_S = 2.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 8.0  # container engines kill 10 s after SIGTERM


def address_of(address: str | None) -> str:
    """Return where to listen: as told, or as the environment says."""
    if address:
        return address
    env = os.environ
    if env.get("SHARDSTREAM_SOCKET"):
        return env["SHARDSTREAM_SOCKET"]
    if env.get("SHARDSTREAM_LISTEN"):
        return env["SHARDSTREAM_LISTEN"]
    if env.get("PORT"):
        return f"0.0.0.0:{env['PORT']}"  # by convention that of a container, reached from outside
    return f"127.0.0.1:{DEFAULT_PORT}"


def listen(address: str) -> socket.socket:
    """Listen at a path, which begins with a slash, or at HOST:PORT."""
    if not isinstance(address, str):
        raise TypeError(f"address is a string, HOST:PORT or /PATH/OF/A/SOCKET, not {address!r}")
    if address.startswith("/"):
        return _listen_unix(address)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(
            f"address {address!r}: give HOST:PORT, such as 127.0.0.1:8000, or /PATH/OF/A/SOCKET"
        )
    host = host.strip("[]") or "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"can't listen at {address}: {error.strerror}") from None


def _listen_unix(path: str) -> socket.socket:
    """Listen at a path, in place of a socket that an earlier process has left there."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)
        listener.bind(path)
        # The target may be another user than the container; the directory says who gets here.
        os.chmod(path, 0o666)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"can't listen at {path}: {error.strerror}") from None
    return listener


class Server:
    """Serves one function in this process; `serve` runs one, or several in processes."""

    def __init__(
        self,
        function: Function,
        listener: socket.socket,
        *,
        threads: int,
        content_type: str,
        target: str,
        max_body: int,
        timeout: float,
        shared: bool = False,
    ) -> None:
        """Take a socket that listens; `shared` says that other processes accept from it too."""
        self.function = function
        self.listener = listener
        self.content_type = content_type
        self.target = target.rstrip("/")
        self.max_body = max_body
        self.timeout = timeout
        self.threads = threads
        self.turn = threading.BoundedSemaphore(threads)
        # Connections that stay are a process's own: with others beside it, requests would queue
        # here while those are idle.
        self.one_request = shared
        self.stopping = False
        self._shared = shared
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, bool] = {}  # busy
        self._threads: set[threading.Thread] = set()
        self._wake, self._waker = socket.socketpair()
        for end in (self.listener, self._wake, self._waker):
            end.setblocking(False)

    def describe(self) -> dict[str, object]:
        """Say what is served, for /health."""
        return {"status": "ok", "level": self.function.level, "function": self.function.name}

    def run(self, *, until: int | None = None) -> None:
        """Serve until stop is called, or the file descriptor `until` can be read."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            if until is not None:
                selector.register(until, selectors.EVENT_READ)
            watched = False
            while not self.stopping:
                wanted, patience = self._wants()
                if wanted != watched:
                    if wanted:
                        selector.register(self.listener, selectors.EVENT_READ)
                    else:
                        selector.unregister(self.listener)
                    watched = wanted
                ready = [key.fileobj for key, _ in selector.select(patience)]
                if until in ready:
                    self.stop()
                if self._wake in ready:
                    with contextlib.suppress(BlockingIOError):
                        self._wake.recv(4096)
                if self.listener in ready or (patience is not None and not ready):
                    self._accept()
        self._finish()

    def stop(self) -> None:
        """Accept no more, and end when the requests at hand are answered; from any thread."""
        self.stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b"s")

    def idle(self, connection: socket.socket) -> None:
        """Note that a connection waits for a request."""
        self._note(connection, False)

    def busy(self, connection: socket.socket) -> None:
        """Note that a connection has a request."""
        self._note(connection, True)

    def _note(self, connection: socket.socket, busy: bool) -> None:
        with self._lock:
            self._connections[connection] = busy
        if self.stopping and not busy:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)

    def _wants(self) -> tuple[bool, float | None]:
        """Say whether to accept at once, or else when."""
        with self._lock:
            connections = len(self._connections)
        if connections >= MAX_CONNECTIONS:
            return False, None
        if self._shared and connections >= self.threads:
            return False, OVERFLOW_S
        return True, None

    def _accept(self) -> None:
        try:
            connection, address = self.listener.accept()
        except OSError:
            return  # another process was faster, or the client has gone
        connection.setblocking(True)
        with self._lock:
            self._connections[connection] = False
        thread = threading.Thread(target=self._serve, args=(connection, address), daemon=True)
        self._threads.add(thread)
        thread.start()

    def _serve(self, connection: socket.socket, address: Any) -> None:
        try:
            handler = Handler(connection, address, self)  # type: ignore[arg-type]
            if getattr(handler, "unread", False):
                _linger(connection)
        except Exception as error:
            print(f"connection of {address}: {error!r}", file=sys.stderr, flush=True)
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()
            self._threads.discard(threading.current_thread())
            with contextlib.suppress(OSError):
                self._waker.send(b"c")

    def _finish(self) -> None:
        """Let running requests end, for a while, and close."""
        self.listener.close()
        with self._lock:
            waiting = [c for c, busy in self._connections.items() if not busy]
        for connection in waiting:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + GRACE_S
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._wake.close()
        self._waker.close()


def _linger(connection: socket.socket) -> None:
    """Let a client that is still sending read its answer: closing at once would discard it."""
    with contextlib.suppress(OSError):
        connection.settimeout(LINGER_S)
        connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LINGER_S
        while time.monotonic() < deadline and connection.recv(64 << 10):
            pass


def run_until_signal(server: Server, *, until: int | None = None) -> None:
    """Serve in the main thread until SIGTERM or SIGINT."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: server.stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    server.run(until=until)


def run_processes(make: Callable[[], Server], listener: socket.socket, count: int) -> None:
    """Keep count processes that serve, until SIGTERM or SIGINT."""
    alive, told = os.pipe()  # children see their parent die: nobody holds the other end
    children: dict[int, float] = {}
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def start() -> None:
        # A signal waits until the child can take it, and the parent knows the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if not stopping:
            pid = os.fork()
            if pid == 0:
                os.close(told)
                _be_child(make, alive)
            children[pid] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    gc.freeze()  # what is loaded now stays shared between the processes
    for number in SIGNALS:
        signal.signal(number, stop)
    pause = 0.0
    while not stopping or children:
        while not stopping and len(children) < count:
            start()
        try:
            pid, status = os.wait()
        except ChildProcessError:
            continue
        begun = children.pop(pid, None)
        if stopping or begun is None:
            continue
        print(f"process {pid} ended with {status}; starting another", file=sys.stderr, flush=True)
        pause = min(max(0.1, 2 * pause), 5.0) if time.monotonic() - begun < 5 else 0.0
        time.sleep(pause)
    listener.close()


def _be_child(make: Callable[[], Server], alive: int) -> NoReturn:
    """Serve, and end without what the parent's code would do at its end."""
    code = 1
    try:
        run_until_signal(make(), until=alive)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

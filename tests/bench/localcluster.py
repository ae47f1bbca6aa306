"""The cluster under test, driven by the command line as a user would."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any


class Cluster:
    """A local cluster in a folder of its own; a context manager that takes it down.

    The folder is made empty before, and removed after.
    """

    def __init__(self, binary: str, folder: Path, targets: int = 3) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.up_s = 0.0  # until it was ready
        self._binary = binary
        self._folder = folder
        self._targets = targets

    def environment(self) -> dict[str, str]:
        """For clients: the endpoint, and no proxy on the way to it."""
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        return {**env, "SHARDSTREAM_ENDPOINT": self.endpoint}

    def run(self, *args: str, timeout: float = 300) -> str:
        done = subprocess.run(
            [self._binary, *args],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"shardstream {' '.join(args)}: exit {done.returncode}: {done.stderr.strip()}"
            )
        return done.stdout

    def __enter__(self) -> Cluster:
        layout = ["--targets", str(self._targets), "--gateways", "1", "--disks", "2"]
        place = ["--dir", str(self._folder), "--port", str(self.port), "--detach"]
        if self._folder.exists():  # of a run that was killed
            self.__exit__()
        start = time.monotonic()
        try:
            self.run("up", *layout, *place, timeout=60)
        except BaseException:
            self.__exit__()
            raise
        self.up_s = time.monotonic() - start
        return self

    def __exit__(self, *_: object) -> None:
        self.run("down", "--dir", str(self._folder), timeout=60)
        shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, bucket: str, files: list[Path]) -> None:
        self.run("bucket", "create", "--if-missing", bucket)
        self.run("put", *map(str, files), f"ss://{bucket}/")

    def pids(self) -> dict[str, list[int]]:
        """The processes of all nodes by role: what serving costs is the CPU time of these."""
        status: dict[str, Any] = json.loads(self.run("status", "--json"))
        roles: dict[str, list[int]] = {"target": [], "gateway": []}
        for node in status["nodes"]:
            roles[node["role"]].append(node["pid"])
        return roles


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port

"""A cluster of real processes for tests, started by the command that the wheel installs."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

COMMAND = Path(sysconfig.get_path("scripts")) / "shardstream"


class Cluster:
    """One gateway and some targets with two disks each, in a directory of their own."""

    def __init__(self, folder: Path, targets: int = 3) -> None:
        if not COMMAND.exists():
            raise RuntimeError(f"{COMMAND} is missing: install the package first (make install)")
        self.folder = folder
        # Tests have their backends on this machine.
        allow = {"SHARDSTREAM_BACKEND_ALLOW": "127.0.0.0/8"}
        self.environment = {**os.environ, "SHARDSTREAM_PYTHON": sys.executable, **allow}
        answer = self.run(
            "up", "--dir", str(folder), "--port", "0", "--targets", str(targets), "--gateways", "1",
            "--disks", "2", "--detach", "--json",
        )  # fmt: skip
        self.endpoint: str = json.loads(answer)["endpoint"]
        self.environment["SHARDSTREAM_ENDPOINT"] = self.endpoint

    def run(self, *args: str) -> str:
        """Run the command line and return what it prints."""
        done = subprocess.run(
            [str(COMMAND), *args],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{args}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def python(self, script: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a Python script in a process of its own."""
        return subprocess.run(
            [sys.executable, "-c", script, *args],
            env={**self.environment, **options.pop("env", {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    def pid(self, node: str) -> int:
        """The process of a node."""
        return int((self.folder / "run" / f"{node}.pid").read_text())

    def kill(self, node: str) -> int:
        """Kill -9 a node, which the supervisor then starts again; returns its pid."""
        pid = self.pid(node)
        os.kill(pid, signal.SIGKILL)
        return pid

    def down(self) -> None:
        """Stop it; its data stay."""
        self.run("down", "--dir", str(self.folder))


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.02)


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """A tar archive of the members, in order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def payload(number: int) -> bytes:
    """The bytes of sample `number`: 100 to 4,000 of them."""
    source = random.Random(number)
    return source.randbytes(source.randint(100, 4000))


def shard(first: int, count: int) -> bytes:
    """A shard of samples: 000007.bin with payload(7), 000007.cls with "7"."""
    members = {}
    for number in range(first, first + count):
        members[f"{number:06}.bin"] = payload(number)
        members[f"{number:06}.cls"] = b"%d" % number
    return tar_of(members)

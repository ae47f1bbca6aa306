"""A local cluster of real processes for what the documentation shows."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
MISSING = 3  # what tests/backends/serve exits with where a server is not installed


@dataclass(frozen=True)
class Workplace:
    """An empty directory with shards in it, and the environment of a user who sits there."""

    path: Path
    env: dict[str, str]

    def run(self, *command: str) -> None:
        """Run a command as the user would; its output is shown where it fails."""
        done = subprocess.run(
            command, cwd=self.path, env=self.env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"

    def start(self) -> None:
        """Bring up what a document takes for granted: a cluster with the shards in it."""
        self.run("shardstream", "up", "--detach")
        self.run("shardstream", "put", "shards/", "ss://digits/", "--create-bucket")


@contextlib.contextmanager
def workplace_in(tmp_path: Path) -> Iterator[Workplace]:
    """Make a workplace; the cluster that is started in it is taken down afterwards."""
    binary = Path(sysconfig.get_path("scripts"), "shardstream")
    if not binary.exists():
        pytest.skip("the shardstream package is not installed here: run the tests by `make test`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Documents say `shardstream up`; here it must not meet another cluster on the usual port.
    wrapper = tmp_path / "bin" / "shardstream"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = up ]; then shift; set -- up --port {port} "$@"; fi\n'
        f'exec "{binary}" "$@"\n'
    )
    wrapper.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{wrapper.parent}:{binary.parent}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "SHARDSTREAM_ENDPOINT": f"http://127.0.0.1:{port}",
    }
    place = Workplace(tmp_path / "here", env)
    write_shards(place.path / "shards")
    try:
        yield place
    finally:
        place.run("shardstream", "down")
        shutil.rmtree(tmp_path / "state", ignore_errors=True)


@contextlib.contextmanager
def server_of(scheme: str, place: Workplace) -> Iterator[None]:
    """Run a real server that has the shards; how it is reached is in the environment."""
    command = ["go", "run", "./tests/backends/serve", scheme, str(place.path / "shards")]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None  # they are pipes
        line = process.stdout.readline()  # which ends with the process, at the latest
        if not line:
            _, errors = process.communicate()
            said = errors.decode()
            # `go run` has an exit code of its own, and says that of the program.
            if (
                f"exit status {MISSING}" in said
                and "SHARDSTREAM_REQUIRE_BACKENDS" not in os.environ
            ):
                pytest.skip(said.splitlines()[0])
            pytest.fail(said, pytrace=False)
        place.env.update(json.loads(line))
        place.env["SHARDSTREAM_BACKEND_ALLOW"] = "127.0.0.0/8"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(60)


def write_shards(folder: Path, shards: int = 4, samples: int = 64) -> None:
    """Write train-0000.tar and so on: 8 x 8 images as PNG, with a class."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for shard in range(shards):
        with tarfile.open(folder / f"train-{shard:04}.tar", "w") as tar:
            for number in range(shard * samples, (shard + 1) * samples):
                png = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(png, "PNG")
                for field, data in (("png", png.getvalue()), ("cls", b"%d" % (number % 10))):
                    member = tarfile.TarInfo(f"{number:06}.{field}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

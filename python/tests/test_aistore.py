"""Servers of AIStore's own SDK, unchanged, behind a target: pushed to, and reading themselves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster
from etlclients import wait_for
from shardstream import Client

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("SHARDSTREAM_AISTORE_PYTHON", ROOT / "build/aistore/bin/python"))
pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="AIStore's SDK is not installed here: run `make test-aistore`"
)
LARGE = b"large and " * 300_000
OBJECTS = {"plain.txt": b"plain", "dir/a b+ü%20.txt": b"odd name", "large": LARGE, "empty": b""}


@pytest.fixture(scope="module")
def one_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of one target, which the servers read from."""
    cluster = Cluster(tmp_path_factory.mktemp("aistore"), targets=1)
    try:
        with Client(cluster.endpoint) as client:
            bucket = client.bucket("b").create()
            for key, data in OBJECTS.items():
                bucket.put(key, data)
            bucket.put("bad", b"bad")
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module", params=["http", "flask", "fastapi"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["buffered", "streaming"])
def server(
    request: pytest.FixtureRequest, kind: str, one_target: Cluster
) -> Iterator[tuple[Cluster, str]]:
    """A running server, and the beginning of the names of three ETLs that use it."""
    name = f"{kind}-{request.param}"
    nodes: list[dict[str, Any]] = json.loads(one_target.run("status", "--json"))["nodes"]
    (target,) = [node["addr"] for node in nodes if node["role"] == "target"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            str(PYTHON),
            str(Path(__file__).with_name("aistoreserver.py")),
            kind,
            request.param,
            str(port),
        ],
        env={**os.environ, "AIS_TARGET_URL": f"http://{target}/v1/etl-objects/{name}-push"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        with Client(one_target.endpoint) as client:
            for transport in ("push", "redirect", "proxy"):
                client.etl.create(
                    f"{name}-{transport}",
                    url=f"http://127.0.0.1:{port}",
                    transport=transport,
                )
        yield one_target, name
    finally:
        process.terminate()
        process.wait(30)


def get(cluster: Cluster, key: str, **query: str) -> tuple[int, bytes]:
    """Read an object as any HTTP client does, redirects followed."""
    url = (
        f"{cluster.endpoint}/v1/objects/b/{urllib.parse.quote(key)}?{urllib.parse.urlencode(query)}"
    )
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("transport", ["push", "redirect", "proxy"])
def test_objects_are_transformed(server: tuple[Cluster, str], transport: str) -> None:
    cluster, name = server
    etl = f"{name}-{transport}"
    for key, data in OBJECTS.items():
        assert get(cluster, key, etl=etl) == (200, data.upper()), key
    args = json.dumps({"suffix": "&=!"})
    assert get(cluster, "plain.txt", etl=etl, etl_args=args) == (200, b"PLAIN&=!")


@pytest.mark.parametrize("transport", ["push", "proxy"])
def test_a_failure_is_an_error(server: tuple[Cluster, str], transport: str) -> None:
    cluster, name = server
    if name == "http-streaming":
        pytest.skip("it sends 200 before it transforms, and its answers have no end mark")
    status, body = get(cluster, "bad", etl=f"{name}-{transport}")
    assert status == 422
    assert b"the server answered 500" in body
    assert b"ss://b/bad" in body

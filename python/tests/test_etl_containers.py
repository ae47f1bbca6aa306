"""The example containers, run by podman without a network: asked by plain HTTP, and by a target."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import shardstream
from clusters import Cluster
from etlclients import peer, wait_for
from shardstream import Client

EXAMPLES = Path(__file__).parents[1] / "examples" / "containers"
DATA = b"hello " * 100_000
# Of the standard library, what no server needs.
LEFT_OUT = {"test", "idlelib", "ensurepip", "tkinter", "lib2to3", "turtledemo", "site-packages",
            "dist-packages", "__pycache__", "config-3.11-x86_64-linux-gnu"}  # fmt: skip


def podman(*args: str, timeout: float = 120) -> str:
    done = subprocess.run(["podman", *args], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"podman {args}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Podman, set up for machines on which its defaults do not work."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed: no container can be run")
    with pytest.MonkeyPatch.context() as patch:
        if "CONTAINERS_CONF" not in os.environ and shutil.which("runc") is not None:
            conf = tmp_path_factory.mktemp("podman") / "containers.conf"
            conf.write_text(
                '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
                '[engine]\nruntime = "runc"\n'
            )
            patch.setenv("CONTAINERS_CONF", str(conf))
        yield


def import_image(tar: Path, *changes: str) -> str:
    """Make an image of a tar with a root file system."""
    name = f"localhost/shardstream-example-{uuid.uuid4().hex[:8]}:latest"
    options = [part for change in changes for part in ("--change", change)]
    podman("import", *options, str(tar), name)
    return name


def needed_by(files: list[Path]) -> set[Path]:
    """The shared libraries of programs and extension modules."""
    listed = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True).stdout
    paths = {part for line in listed.splitlines() for part in line.split() if part.startswith("/")}
    return {Path(path) for path in paths if not path.endswith(":")}


def python_root(tar: tarfile.TarFile) -> None:
    """Put this machine's Python into a tar, and the package's Python files."""
    interpreter = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    binaries = [interpreter, *library.glob("lib-dynload/*.so")]
    for path in {interpreter, *needed_by(binaries)}:
        tar.add(path.resolve(), str(path))
    tar.add(
        library,
        filter=lambda member: None if LEFT_OUT & set(Path(member.name).parts) else member,
    )
    package = Path(shardstream.__file__).parent
    for path in package.rglob("*.py"):
        if "_core" not in path.parts:
            tar.add(path, f"app/shardstream/{path.relative_to(package)}")
    tar.add(EXAMPLES / "python" / "transform.py", "app/transform.py")


@pytest.fixture(scope="module")
def python_image(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The example in Python, on this machine's Python: a registry may be out of reach."""
    path = tmp_path_factory.mktemp("python") / "root.tar"
    with tarfile.open(path, "w") as tar:
        python_root(tar)
    command = [
        str(Path(sys.executable).resolve()), "-B", "-m", "shardstream.etl", "/app/transform.py",
        "--processes", "2",
    ]  # fmt: skip
    name = import_image(path, "ENV PYTHONPATH=/app", "USER 65534", f"CMD {json.dumps(command)}")
    yield name
    podman("rmi", "--force", name)


@pytest.fixture(scope="module")
def go_image(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The example in Go: a static binary and nothing else."""
    if shutil.which("go") is None:
        pytest.skip("there is no Go toolchain on PATH")
    folder = tmp_path_factory.mktemp("go")
    subprocess.run(
        ["go", "build", "-trimpath", "-o", str(folder / "etl"), "."],
        cwd=EXAMPLES / "go",
        env={**os.environ, "CGO_ENABLED": "0"},
        check=True,
        timeout=300,
    )
    with tarfile.open(folder / "root.tar", "w") as tar:
        tar.add(folder / "etl", "etl")
    name = import_image(folder / "root.tar", "USER 65534", 'ENTRYPOINT ["/etl"]')
    yield name
    podman("rmi", "--force", name)


@pytest.fixture(params=["python_image", "go_image"])
def image(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_an_example_serves_on_its_socket(image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    name = f"shardstream-example-{uuid.uuid4().hex[:8]}"
    podman(
        "run", "--detach", "--name", name, "--network", "none", "--read-only", "--cap-drop=all",
        "--volume", f"{tmp_path}:/run/shardstream", "--memory", "256m",
        "--env", "SHARDSTREAM_SOCKET=/run/shardstream/etl.sock", image,
    )  # fmt: skip
    try:
        path = str(tmp_path / "etl.sock")
        wait_for(path)
        with peer(path) as one:
            assert gzip.decompress(one.ask("PUT", "/b/k", DATA).body) == DATA
            fast = one.ask("PUT", "/b/k", DATA, args={"level": 1}).body
            assert gzip.decompress(fast) == DATA
            assert one.ask("PUT", "/b/k", DATA, args={"speed": 1}).status == 400
            assert one.ask("PUT", "/b/k", DATA, args={"level": 77}).status == 422
        podman("stop", name)
        assert podman("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
    except AssertionError as error:
        raise AssertionError(f"{error}\n{podman('logs', name)}") from error
    finally:
        podman("rm", "--force", name)


@pytest.fixture(scope="module")
def cluster_with_engine(
    engine: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), targets=1)
    try:
        with Client(cluster.endpoint) as client:
            client.bucket("b").create().put("k", DATA)
        yield cluster
    finally:
        cluster.down()


def test_a_target_runs_an_example(image: str, cluster_with_engine: Cluster) -> None:
    with Client(cluster_with_engine.endpoint, timeout=90) as client:
        client.etl.create("gzip", image=image, args={"level": 1}, workers=2)
        assert gzip.decompress(client.bucket("b").get("k", etl="gzip")) == DATA
        client.etl.delete("gzip")

"""Buckets in front of a web server, from Python, on a real cluster."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import shardstream as ss
from clusters import shard
from shardstream._backends import byte_size


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server that does not tell of each request."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        (tmp_path / f"train-{number}.tar").write_bytes(shard(20 * number, 20))
    (tmp_path / "val-0.tar").write_bytes(shard(100, 5))
    return tmp_path


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    serve = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def bucket(client: ss.Client, url: str, request: pytest.FixtureRequest) -> Iterator[ss.Bucket]:
    bucket = client.bucket(f"b{abs(hash(request.node.name)) % 10**9}")
    yield bucket.create(backend=url, pin=["val-*.tar"])
    bucket.drop(force=True)


def test_what_is_read_is_cached(client: ss.Client, bucket: ss.Bucket, folder: Path) -> None:
    info = bucket.info().backend
    assert info is not None
    assert (info.check, info.ttl, info.write, info.delete) == ("ttl", 60, "read-only", "refuse")
    assert info.pin == ("val-*.tar",) and info.secret == "" and info.quota == 0
    assert client.bucket("train").info().backend is None
    assert [(o.name, o.cached, o.version) for o in bucket.list("train")] == [
        (f"train-{number}.tar", False, 0) for number in range(4)
    ]
    assert bucket.get("train-2.tar") == (folder / "train-2.tar").read_bytes()
    assert [o.name for o in bucket.list(cached=True)] == ["train-2.tar"]
    (listed,) = bucket.list("train-2")
    assert listed.cached and listed.samples == 20 and listed.version > 0
    assert listed.size == (folder / "train-2.tar").stat().st_size
    assert all(o.cached is None for o in client.bucket("train").list())
    cached = bucket.cached()
    assert (cached.objects, cached.bytes, cached.own) == (1, listed.size, 0)


def test_prefetch_and_evict(bucket: ss.Bucket) -> None:
    status = bucket.prefetch("train-[0-1].tar").wait(60)
    assert (status.kind, status.done, status.skipped, status.failed) == ("prefetch", 2, 0, 0)
    assert status.spec == {"bucket": bucket.name, "pattern": "train-[0-1].tar"}
    status = bucket.prefetch().wait(60)
    assert (status.total, status.done, status.skipped) == (5, 3, 2)
    job = bucket.prefetch(["val-0.tar", "nothing"])
    assert job.wait(60).failed == 1
    (failure,) = job.failures()
    assert failure.object.endswith("/nothing") and failure.code == "not_found"
    assert bucket.evict("train-3.tar").wait(60).done == 1
    status = bucket.evict().wait(60)
    assert (status.done, status.skipped) == (3, 1), "what is pinned stays"
    assert [o.name for o in bucket.list(cached=True)] == ["val-0.tar"]
    assert bucket.cached().pinned > 0
    with pytest.raises(ss.NotFoundError, match="matches no object"):
        bucket.prefetch("other-*").wait(60)


def test_policies_may_be_changed(bucket: ss.Bucket) -> None:
    with pytest.raises(ss.RequestError) as refused:
        bucket.put("mine", b"mine")
    assert refused.value.code == "read_only"
    info = bucket.set(write="cache-only", delete="cache", quota="1GiB", check="always", pin=[])
    assert info.backend is not None
    assert (info.backend.write, info.backend.quota, info.backend.ttl) == ("cache-only", 1 << 30, 0)
    assert info.backend.pin == ()
    with pytest.raises(ValueError, match="ttl is for check"):
        bucket.set(ttl=5)
    bucket.put("mine", b"mine")
    assert [o.name for o in bucket.list(cached=True)] == ["mine"]
    assert bucket.cached().own == 1
    with pytest.raises(ss.ConflictError):
        bucket.drop()
    bucket.delete("mine")
    bucket.drop()
    bucket.create(backend="http://127.0.0.1:9/", probe=False)
    with pytest.raises(ss.ConflictError):
        bucket.create(backend="http://127.0.0.1:9/", probe=False)


def test_changes_at_once_all_hold(bucket: ss.Bucket) -> None:
    changes: list[dict[str, Any]] = [
        {"quota": 1 << 30},
        {"read_ahead": 1 << 20},
        {"pin": ["a-*"]},
        {"check": "never"},
        {"delete": "cache"},
        {"insecure": True},
    ]
    for _ in range(5):
        bucket.set(quota=0, read_ahead=0, pin=[], check="ttl", delete="refuse", insecure=False)
        with ThreadPoolExecutor(len(changes)) as pool:
            list(pool.map(lambda change: bucket.set(**change), changes))
        backend = bucket.info().backend
        assert backend is not None
        assert (backend.quota, backend.read_ahead, backend.pin) == (1 << 30, 1 << 20, ("a-*",))
        assert (backend.check, backend.delete, backend.insecure) == ("never", "cache", True)


def test_what_is_refused(client: ss.Client) -> None:
    bucket = client.bucket("refused")
    with pytest.raises(ss.RequestError, match="durable copy"):
        bucket.create(backend="http://127.0.0.1:9/", mirror=2)
    with pytest.raises(ss.RequestError, match=r"10\.0\.0\.1"):
        bucket.create(backend="http://10.0.0.1/")
    with pytest.raises(ss.RequestError, match="secret"):
        bucket.create(backend="http://me:password@127.0.0.1/")
    with pytest.raises(ss.NotFoundError, match="secret nothing"):
        bucket.create(backend="s3://photos", secret="nothing")
    with pytest.raises(ValueError, match=r"^pin is for a bucket with a backend"):
        bucket.create(pin=["a"])
    with pytest.raises(ValueError, match="check"):
        bucket.create(backend="s3://photos", check="sometimes")
    with pytest.raises(ValueError, match="ttl"):
        bucket.create(backend="s3://photos", check="never", ttl=5)
    with pytest.raises(ValueError, match="no backend"):
        client.bucket("train").set(quota=5)
    with pytest.raises(ss.RequestError, match="no backend"):
        client.bucket("train").prefetch()
    assert not bucket.exists()


def test_a_backend_that_is_not_there(client: ss.Client) -> None:
    with pytest.raises(ss.BackendError, match=r"127\.0\.0\.1:9") as failed:
        client.bucket("away").create(backend="http://127.0.0.1:9/")
    assert failed.value.code.startswith("backend_")


def test_secrets(client: ss.Client) -> None:
    info = client.secrets.set("aws", {"access_key_id": "me", "secret_access_key": "hunter2"})
    assert info.fields == ("access_key_id", "secret_access_key")
    assert info.created is not None and "hunter2" not in repr(info)
    assert [secret.name for secret in client.secrets.ls()] == ["aws"]
    photos = client.bucket("photos").create(backend="s3://photos", secret="aws", probe=False)
    with pytest.raises(ss.ConflictError, match="bucket photos"):
        client.secrets.rm("aws")
    photos.drop()
    client.secrets.rm("aws")
    with pytest.raises(ss.NotFoundError):
        client.secrets.rm("aws")
    with pytest.raises(ss.RequestError):
        client.secrets.set("No Name", {"a": "b"})
    with pytest.raises(TypeError, match="strings"):
        client.secrets.set("x", {"a": 5})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="one field"):
        client.secrets.set("x", {})


@pytest.mark.parametrize(
    ("value", "expected"), [(5, 5), ("5", 5), ("2kB", 2000), ("1.5 GiB", 3 << 29), ("0", 0)]
)
def test_sizes(value: int | str, expected: int) -> None:
    assert byte_size("quota", value) == expected


@pytest.mark.parametrize("value", ["much", "5 GB!", "-1", -1, 1.5, True, "1Gib", "9" * 400])
def test_bad_sizes(value: object) -> None:
    with pytest.raises((ValueError, TypeError), match="quota"):
        byte_size("quota", value)

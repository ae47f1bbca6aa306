"""The client against a real cluster."""

from __future__ import annotations

import dataclasses
import io
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import shardstream as ss
from clusters import Cluster, payload, shard, tar_of, wait_for
from shardstream._body import Body


@pytest.fixture
def bucket(client: ss.Client, request: pytest.FixtureRequest) -> ss.Bucket:
    return client.bucket(f"b{abs(hash(request.node.name)) % 10**9}").create(exist_ok=True)


def test_status(client: ss.Client) -> None:
    status = client.status()
    assert status["state"] == "ok"
    assert [n["id"] for n in status["nodes"]] == ["gateway-1", "target-1", "target-2", "target-3"]


def test_life_of_a_bucket(client: ss.Client) -> None:
    bucket = client.bucket("life")
    assert not bucket.exists()
    with pytest.raises(ss.NotFoundError) as caught:
        bucket.info()
    assert (caught.value.code, caught.value.status) == ("no_such_bucket", 404)
    assert bucket.create() is bucket
    with pytest.raises(ss.ConflictError):
        bucket.create()
    bucket.create(exist_ok=True)
    info = bucket.info()
    assert (info.name, info.mirror) == ("life", 1)
    assert info.created is not None and info.created.tzinfo is not None
    assert "life" in [b.name for b in client.buckets()]
    bucket.put("x", b"1")
    with pytest.raises(ss.ConflictError):
        bucket.drop()
    bucket.drop(force=True)
    assert not bucket.exists()


def test_buckets_say_how_many_copies_there_are(client: ss.Client) -> None:
    bucket = client.bucket("kept").create(mirror=2, degraded=True)
    info = bucket.info()
    assert (info.mirror, info.ec, info.degraded) == (2, None, True)
    info = bucket.set(degraded=False)
    assert (info.mirror, info.degraded) == (2, False)
    sliced = client.bucket("sliced").create(ec="2+1").info()
    assert (sliced.mirror, sliced.ec) == (2, (2, 1))
    with pytest.raises(TypeError, match="what to change"):
        bucket.set()
    for bad in ("4", "4+x", "a+b", (4,), (0, 1)):
        with pytest.raises(ValueError, match="ec"):
            bucket.set(ec=bad)  # type: ignore[arg-type]
    with pytest.raises(ss.RequestError, match="1 to 16"):
        bucket.set(mirror=17)
    bucket.drop()
    client.bucket("sliced").drop()


KEYS = ["plain", "a/b/c.bin", "späße & 100%?#.txt", "+plus +", "...", "x" * 900]


@pytest.mark.parametrize("key", KEYS)
def test_put_get_head_delete(bucket: ss.Bucket, key: str) -> None:
    data = payload(1)
    info = bucket.put(key, data, content_type="text/x", meta={"who": "me"})
    assert (info.bucket, info.name, info.size) == (bucket.name, key, len(data))
    assert int(info.crc32, 16) == zlib.crc32(data)
    assert bucket.get(key) == data
    head = bucket.head(key)
    assert (head.version, head.etag, head.xxh3) == (info.version, info.etag, info.xxh3)
    assert (head.content_type, head.meta) == ("text/x", {"who": "me"})
    assert head.size == len(data)
    assert [o.name for o in bucket.list()] == [key]
    bucket.delete(key)
    for call in (bucket.get, bucket.head, bucket.delete):
        with pytest.raises(ss.NotFoundError):
            call(key)


def test_kinds_of_data(bucket: ss.Bucket, tmp_path: Path) -> None:
    data = payload(2) * 700  # more than one chunk
    file = tmp_path / "file"
    file.write_bytes(data)
    with file.open("rb") as opened:
        opened.read(10)
        kinds: list[Any] = [data, bytearray(data), memoryview(data), file, str(file)]
        for kind in kinds:
            assert bucket.put("k", kind).size == len(data)
            assert bucket.get("k") == data
        bucket.put("k", opened)
        assert bucket.get("k") == data[10:]
    assert bucket.put("empty", b"").size == 0
    assert bucket.get("empty") == b""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        os.write(writer, b"piped")
        os.close(writer)
        bucket.put("p", pipe)
    assert bucket.get("p") == b"piped"
    with pytest.raises(TypeError, match="bytes, a path"):
        bucket.put("k", 3)  # type: ignore[arg-type]
    for text in (io.StringIO("text"), io.TextIOWrapper(io.BytesIO(b"text"))):
        with pytest.raises(TypeError, match="mode 'rb'"):
            bucket.put("k", text)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        bucket.put("k", tmp_path / "missing")


def test_ranges(bucket: ss.Bucket) -> None:
    data = bytes(range(256))
    bucket.put("k", data)
    for offset, length in ((0, 1), (10, 20), (255, 1), (250, 100), (0, None), (7, None)):
        end = None if length is None else offset + length
        assert bucket.get("k", offset=offset, length=length) == data[offset:end]
    assert bucket.get("k", offset=-5) == data[-5:]
    with pytest.raises(ss.RangeError):
        bucket.get("k", offset=256)
    for offset, length in ((0, 0), (0, -1), (-3, 2)):
        with pytest.raises(ValueError, match="length"):
            bucket.get("k", offset=offset, length=length)
    wrong: list[dict[str, Any]] = [{"offset": 2.5}, {"offset": "1"}, {"length": "1"}]
    for arguments in wrong:
        with pytest.raises(TypeError, match="must be an integer"):
            bucket.get("k", **arguments)


def test_properties_are_any_text(bucket: ss.Bucket) -> None:
    meta = {"note": "für 学習 🙂", "empty": ""}
    assert bucket.put("k", b"x", meta=meta).meta["note"] == meta["note"]
    assert bucket.head("k").meta["note"] == meta["note"]
    assert next(bucket.list()).meta["note"] == meta["note"]
    with pytest.raises(ValueError, match=r"note.*control"):
        bucket.put("k", b"x", meta={"note": "two\nlines"})
    with pytest.raises(TypeError, match=r"note.*string"):
        bucket.put("k", b"x", meta={"note": 3})  # type: ignore[dict-item]


def test_members_of_an_archive(bucket: ss.Bucket) -> None:
    info = bucket.put("a.tar", tar_of({"d/1.jpg": b"one", "d/1.cls": b"7", "d/2.jpg": b"two"}))
    assert (info.archive, info.members, info.samples) == ("tar", 3, 2)
    assert (bucket.head("a.tar").samples, bucket.head("a.tar").members) == (2, 3)
    assert bucket.get("a.tar", member="d/1.cls") == b"7"
    assert bucket.get("a.tar", member="d/2.jpg", offset=1) == b"wo"
    with pytest.raises(ss.NotFoundError, match=r"d/3\.jpg"):
        bucket.get("a.tar", member="d/3.jpg")


def test_damaged_archives_are_refused_whole(bucket: ss.Bucket) -> None:
    whole = tar_of({"1.jpg": b"x" * 3000})
    for damaged in (whole[:1000], whole[:512], b"garbage" * 400):
        with pytest.raises(ss.BadArchiveError):
            bucket.put("a.tar", damaged)
    assert list(bucket.list()) == []
    assert bucket.put("a.tar", b"garbage", index=False).archive == ""
    assert bucket.get("a.tar") == b"garbage"


@pytest.mark.parametrize("key", ["../x", "a/../../x", "a\0b", "x" * 2000, "/x", "a//b", "a/", "."])
def test_bad_names(bucket: ss.Bucket, key: str) -> None:
    with pytest.raises(ss.RequestError) as caught:
        bucket.put(key, b"x")
    assert caught.value.status == 400


def test_conditions(bucket: ss.Bucket) -> None:
    first = bucket.put("k", b"1", if_none_match="*")
    with pytest.raises(ss.PreconditionError):
        bucket.put("k", b"2", if_none_match="*")
    second = bucket.put("k", b"2", if_match=first.etag)
    with pytest.raises(ss.PreconditionError):
        bucket.put("k", b"3", if_match=first.etag)
    with pytest.raises(ss.PreconditionError):
        bucket.delete("k", if_match=first.etag)
    assert second.version > first.version
    bucket.delete("k", if_match=second.etag)


def test_listing_pages_and_prefixes(bucket: ss.Bucket) -> None:
    names = [f"{folder}/{i}" for folder in ("a", "b") for i in range(5)] + ["top"]
    for name in names:
        bucket.put(name, b"x")
    assert [o.name for o in bucket.list(page=3)] == names
    assert [o.name for o in bucket.list("b/", page=2)] == names[5:10]
    assert [o.name for o in bucket.list(start_after="b/3")] == ["b/4", "top"]
    assert list(bucket.prefixes()) == ["a/", "b/"]


def test_locate_names_the_files(bucket: ss.Bucket) -> None:
    missing = bucket.locate("k")
    assert (missing.version, missing.copies) == (0, ())
    info = bucket.put("k", b"located")
    where = bucket.locate("k")
    assert where.version == info.version
    assert where.object == f"ss://{bucket.name}/k"
    (copy,) = where.copies
    assert b"located" in Path(copy.files[0]).read_bytes()


def test_put_goes_straight_to_the_owner(bucket: ss.Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = bucket.locate("k").url
    sent: list[str] = []
    request = bucket._http.request

    def spy(method: str, url: str, **options: Any) -> Any:
        if method == "PUT":
            sent.append(url)
        return request(method, url, **options)

    monkeypatch.setattr(bucket._http, "request", spy)
    bucket.put("k", b"x")
    assert sent == [owner]
    assert owner.split("/")[2] != bucket._http.endpoint.split("/")[2]


def test_bytes_that_change_on_their_way_are_refused(
    bucket: ss.Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(body: Body) -> Any:
        yield b"others"

    monkeypatch.setattr(Body, "chunks", damaged)
    with pytest.raises(ss.IntegrityError):
        bucket.put("k", b"theirs")
    assert list(bucket.list()) == []


def test_download(bucket: ss.Bucket, tmp_path: Path) -> None:
    data = payload(3) * 500
    bucket.put("k", data)
    info = bucket.download("k", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert info.size == len(data)
    with pytest.raises(ss.NotFoundError):
        bucket.download("missing", tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_a_flipped_byte_is_an_error_not_data(bucket: ss.Bucket) -> None:
    bucket.put("k", payload(4) * 100)
    file = Path(bucket.locate("k").copies[0].files[0])
    stored = bytearray(file.read_bytes())
    stored[100] ^= 1
    file.write_bytes(stored)
    with pytest.raises(ss.IntegrityError, match="k") as caught:
        bucket.get("k")
    assert caught.value.code in ("corrupt", "incomplete_body")


def test_a_node_that_is_killed_costs_time_but_no_error(cluster: Cluster, bucket: ss.Bucket) -> None:
    for node in ("target-1", "target-2", "target-3"):
        cluster.kill(node)
        for number in range(10):
            bucket.put(f"{node}/{number}", payload(number))
        for number in range(10):
            assert bucket.get(f"{node}/{number}") == payload(number)
    assert len(list(bucket.list())) == 30


def upper(data: bytes) -> bytes:
    return data.upper()


def label(sample: dict[str, Any]) -> dict[str, Any]:
    print("labelling", sample["__key__"])
    return {"label": int(sample["cls"])}


def test_life_of_a_transformation(client: ss.Client, bucket: ss.Bucket) -> None:
    made = client.etl.create("upper", upper, level="object")
    assert (made.name, made.entry, made.level) == ("upper", "upper", "object")
    assert "data.upper()" in made.source
    wait_for(lambda: client.etl.status("upper").state == "ready")  # of the very version
    shown = client.etl.show("upper")
    assert shown.status is not None and shown.status.state == "ready"
    assert dataclasses.replace(shown, status=None) == made
    status = client.etl.status("upper")
    assert status.ready == status.wanted == len(status.targets)
    assert status.targets[0].health.python.startswith("3.")
    assert client.etl.restart("upper").ready == status.wanted
    one = status.targets[0].id
    assert client.etl.logs("upper", target=one).startswith(f"==> {one} <==")
    assert "upper" in [e.name for e in client.etl.list()]
    bucket.put("k", b"text")
    assert bucket.get("k", etl="upper") == b"TEXT"
    again = client.etl.create(
        "upper", "def transform(data):\n    return data * 2\n", level="object"
    )
    assert again.version > made.version
    wait_for(lambda: bucket.get("k", etl="upper") == b"texttext")
    client.etl.delete("upper")
    for call in (client.etl.show, client.etl.delete):
        with pytest.raises(ss.NotFoundError) as caught:
            call("upper")
        assert caught.value.code == "no_such_etl"


def repeat(data: bytes, times: int = 2) -> bytes:
    print("repeating", len(data))
    return data * times


def pieces(data: bytes, count: int = 3, fail: int = -1) -> Iterator[bytes]:
    for number in range(count):
        if number == fail:
            raise ValueError(f"at piece {number}")
        yield b"x" * 100_000


def test_reads_through_transformations(
    client: ss.Client, bucket: ss.Bucket, tmp_path: Path
) -> None:
    bucket.put("k", b"text")
    client.etl.create("repeat", repeat, level="object")
    client.etl.create("upper", upper, level="object")
    client.etl.create("pieces", pieces, level="object")
    assert bucket.get("k", etl="repeat", etl_args={"times": 3}) == b"text" * 3
    assert bucket.get("k", etl=["repeat", "upper"]) == b"TEXTTEXT"
    assert bucket.get("k", etl="repeat,upper", etl_args=[{"times": 1}, None]) == b"TEXT"
    assert bucket.get("k", etl="repeat", offset=2, length=3) == b"xtt"
    assert bucket.get("k", etl="repeat", offset=-2) == b"xt"
    for _ in range(2):
        assert bucket.get("k", etl="repeat", cache=True) == b"texttext"
    assert bucket.get("k", etl="pieces", etl_args={"count": 50}) == b"x" * 5_000_000
    path = tmp_path / "pieces"
    bucket.download("k", path, etl="pieces", etl_args={"count": 50}, cache=True)
    assert path.stat().st_size == 5_000_000
    with pytest.raises(ss.ETLError, match="at piece 0"):
        bucket.get("k", etl="pieces", etl_args={"fail": 0})
    with pytest.raises(ss.IntegrityError, match="ended early"):
        bucket.get("k", etl="pieces", etl_args={"count": 50, "fail": 40})
    with pytest.raises(ss.RequestError, match="must be an array"):
        bucket.get("k", etl=["repeat", "upper"], etl_args={"times": 1})
    with pytest.raises(ss.RangeError):
        bucket.get("k", etl="repeat", offset=100)
    for name in ("repeat", "upper", "pieces"):
        client.etl.delete(name)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"etl_args": {"a": 1}}, "go with etl"),
        ({"cache": True}, "go with etl"),
        ({"etl": "x", "etl_args": "a"}, "etl_args is a dict"),
        ({"etl": "x", "etl_args": [1]}, "etl_args is a dict"),
        ({"etl": "x", "etl_args": {"a": b""}}, "what JSON can hold"),
        ({"etl": "x", "cache": 1}, "cache must be"),
        ({"etl": 7}, "etl is a list of names"),
    ],
)
def test_bad_arguments_of_transformed_reads(arguments: dict[str, Any], says: str) -> None:
    bucket = ss.Client("http://127.0.0.1:1").bucket("b")
    with pytest.raises((TypeError, ValueError), match=says):
        bucket.get("k", **arguments)


def test_trials(client: ss.Client, bucket: ss.Bucket) -> None:
    bucket.put("train.tar", shard(0, 3))
    bucket.put("k", b"text")
    address = f"ss://{bucket.name}"
    trial = client.etl.test("label", f"{address}/train.tar", function=label)
    assert not trial.error and trial.version == 0 and trial.level == "sample"
    assert [(f.name, f.dtype, f.text) for f in trial.fields] == [("label", "int64", "0")]
    assert trial.log.startswith("labelling ")
    with pytest.raises(ss.NotFoundError):
        client.etl.show("label")
    client.etl.create("repeat", repeat, level="object")
    trial = client.etl.test("repeat", f"{address}/k", args={"times": 3}, data=True)
    assert (trial.data, trial.size, trial.log) == (b"text" * 3, 12, "repeating 4\n")
    trial = client.etl.test("repeat", f"{address}/k", args={"times": "many"})
    assert "TypeError" in trial.error and trial.data is None
    with pytest.raises(ss.NotFoundError):
        client.etl.test("repeat", f"{address}/missing")
    with pytest.raises(ValueError, match="go with function"):
        client.etl.test("repeat", f"{address}/k", level="object")
    client.etl.delete("repeat")


def test_bad_transformations(client: ss.Client) -> None:
    with pytest.raises(ss.ShardstreamError, match="SyntaxError"):
        client.etl.create("bad", "def transform(:\n")
    with pytest.raises(ss.ShardstreamError, match="no_such_package"):
        client.etl.create("bad", "import no_such_package\ndef transform(s):\n    return s\n")
    with pytest.raises(ss.ShardstreamError, match="augment"):
        client.etl.create("bad", "def transform(s):\n    return s\n", entry="augment")
    with pytest.raises(ValueError, match="level"):
        client.etl.create("bad", upper, level="shard")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lambda"):
        client.etl.create("bad", lambda sample: sample)
    for wrong, says in (
        ({"env": {"A": 5}}, "env is a dict from strings to strings"),
        ({"env": "A=5"}, "env is a dict from strings to strings"),
        ({"args": ["a"]}, "args takes dicts"),
        ({"args": {"a": float("nan")}}, "args must be plain JSON"),
        ({"network": 5}, "network must be a string"),
        ({"wait": "no"}, "wait must be True or False"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            client.etl.create("bad", upper, **wrong)
    with pytest.raises(TypeError, match="args takes dicts"):
        client.etl.run("bad", "ss://a/", "ss://b/", args="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="extensions is a dict"):
        client.etl.run("bad", "ss://a/", "ss://b/", extensions=["jpg"])  # type: ignore[arg-type]
    assert "bad" not in [e.name for e in client.etl.list()]


def test_no_cluster_there() -> None:
    with (
        ss.Client("http://127.0.0.1:9", timeout=1) as client,
        pytest.raises(ss.UnavailableError, match="SHARDSTREAM_ENDPOINT"),
    ):
        client.status()


def test_closed_client(cluster: Cluster) -> None:
    client = ss.Client(cluster.endpoint)
    client.status()
    client.close()
    client.close()
    with pytest.raises(ss.ClosedError):
        client.status()


def test_one_client_in_many_threads_and_in_a_forked_child(client: ss.Client) -> None:
    failures: list[Exception] = []

    def ask() -> None:
        try:
            for _ in range(20):
                assert client.status()["state"] == "ok"
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if client.status()["state"] == "ok" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert client.status()["state"] == "ok"


def test_plain_http_works_on_the_same_addresses(cluster: Cluster, bucket: ss.Bucket) -> None:
    bucket.put("k", b"plain")
    with urlopen(f"{cluster.endpoint}/v1/objects/{bucket.name}/k") as answer:
        assert answer.read() == b"plain"
    assert isinstance(io.BytesIO(bucket.get("k")).read(), bytes)

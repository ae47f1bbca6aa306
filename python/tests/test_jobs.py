"""Jobs, from Python, on a real cluster."""

from __future__ import annotations

import pytest
import shardstream as ss


def double(data: bytes) -> bytes:
    if data == b"bad":
        raise ValueError("no good")
    return data * 2


def slow(data: bytes) -> bytes:
    import time

    time.sleep(0.2)
    return data


@pytest.fixture
def buckets(client: ss.Client, request: pytest.FixtureRequest) -> tuple[ss.Bucket, ss.Bucket]:
    name = f"j{abs(hash(request.node.name)) % 10**9}"
    return client.bucket(f"{name}-in").create(), client.bucket(f"{name}-out").create()


def test_run(
    client: ss.Client,
    buckets: tuple[ss.Bucket, ss.Bucket],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = buckets
    for i in range(20):
        source.put(f"raw/{i:02d}.txt", b"%d" % i)
    source.put("raw/bad.txt", b"bad")
    client.etl.create("double", double, level="object")

    def run(only_new: bool) -> ss.Job:
        return client.etl.run(
            "double",
            f"ss://{source.name}/raw/",
            f"ss://{out.name}/made/",
            strip_prefix="raw/",
            extensions={"txt": "dbl"},
            only_new=only_new,
        )

    job = run(only_new=False)
    status = job.wait(60, progress=True)
    assert f"job {job.id}: done, 21 of 21 objects, 1 failed" in capsys.readouterr().err
    assert (status.state, status.total, status.done, status.failed) == ("done", 21, 20, 1)
    assert status.finished and status.spec["etl"] == "double"
    assert status.started is not None and status.ended is not None
    assert out.get("made/07.dbl") == b"77"
    assert out.head("made/07.dbl").meta["etl-job"] == job.id
    assert len(list(out.list())) == 20
    (failure,) = job.failures()
    assert failure.object == f"ss://{source.name}/raw/bad.txt"
    assert failure.code == "etl_failed" and "ValueError: no good" in failure.message
    assert run(only_new=True).wait(60).skipped == 20
    assert job.id in [entry.id for entry in client.jobs.list()]
    assert client.jobs.get(job.id).status() == status


def test_abort(client: ss.Client, buckets: tuple[ss.Bucket, ss.Bucket]) -> None:
    source, out = buckets
    for i in range(200):
        source.put(f"{i:03d}", b"x")
    client.etl.create("slow", slow, level="object", workers=1)
    job = client.etl.run("slow", f"ss://{source.name}/", f"ss://{out.name}/")
    with pytest.raises(ss.DeadlineError):
        job.wait(0.5)
    job.abort()
    with pytest.raises(ss.JobAbortedError, match=job.id):
        job.wait(30)
    assert job.status().state == "aborted"
    assert len(list(out.list())) < 200


def test_what_is_wrong(client: ss.Client, buckets: tuple[ss.Bucket, ss.Bucket]) -> None:
    source, out = buckets
    client.etl.create("double", double, level="object")
    good = (f"ss://{source.name}/", f"ss://{out.name}/")
    with pytest.raises(ss.NotFoundError, match="nope"):
        client.etl.run("nope", *good)
    with pytest.raises(ss.NotFoundError, match="no bucket"):
        client.etl.run("double", "ss://nowhere/", good[1])
    with pytest.raises(ss.RequestError, match="source at once"):
        client.etl.run("double", good[0], good[0])
    with pytest.raises(ss.NotFoundError, match="matches no object"):
        client.etl.run("double", *good).wait(30)
    with pytest.raises(ss.NotFoundError):
        client.jobs.get("nothing")
    with pytest.raises(TypeError, match="source"):
        client.etl.run("double", 7, good[1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_errors"):
        client.etl.run("double", *good, max_errors=-1)

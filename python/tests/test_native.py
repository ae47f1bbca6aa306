"""The life of slots, the way of errors, and the guard against forks."""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import shardstream as ss
from fakes import FakeBinding
from shardstream import _native
from shardstream._batch import read

CONFIG = {"timeout_s": 0.2, "batch_size": 4, "seed": 0, "shuffle": "none", "drop_last": False}
RUN = {
    "epoch": 0, "position": 0, "rank": 0, "world_size": 1, "worker": 0, "workers": 1,
    "snapshot": "",
}  # fmt: skip


@pytest.fixture
def stream(fake: FakeBinding) -> _native.Stream:
    stream = _native.Stream(CONFIG)
    stream.start(RUN)
    return stream


def batch_of(stream: _native.Stream) -> dict[str, Any]:
    found = stream.next()
    assert found is not None
    return read(*found)[1]


def test_a_slot_is_released_when_the_last_view_goes(
    stream: _native.Stream, fake: FakeBinding
) -> None:
    batch = batch_of(stream)
    deep = batch["x"][1:][::2]
    view = batch["raw"][2]
    del batch
    assert fake.released == [] and stream.held == 1
    assert deep.tolist() == [1, 3] and bytes(view) == b"2"
    del deep
    assert fake.released == []
    del view
    assert fake.released == [0] and stream.held == 0


def test_slots_are_reused_and_remapped_when_they_grow(
    stream: _native.Stream, fake: FakeBinding
) -> None:
    for want in ([0, 1, 2, 3], [4, 5, 6, 7]):
        assert batch_of(stream)["x"].tolist() == want
    os.ftruncate(fake._fds[0], 0)
    fake._run[0] = (bytes(8192) + fake._run[0][0], fake._run[0][1])
    data, table = fake._run[0]
    fake._run[0] = (data[8192:] + bytes(8192), table)
    assert batch_of(stream)["x"].tolist() == [8, 9, 10, 11]
    assert stream._slots[0].size > 8192
    assert len(fake._fds) == 1


def test_views_stay_readable_after_close(stream: _native.Stream, fake: FakeBinding) -> None:
    batch = batch_of(stream)
    stream.close()
    stream.close()
    assert fake.closed == [1]
    assert batch["x"].tolist() == [0, 1, 2, 3]
    del batch
    assert fake.released == []
    with pytest.raises(ss.ClosedError):
        stream.next()


def test_dropping_the_stream_closes_it_after_the_last_view(fake: FakeBinding) -> None:
    stream = _native.Stream(CONFIG)
    stream.start(RUN)
    batch = batch_of(stream)
    del stream
    gc.collect()
    assert fake.closed == []
    del batch
    gc.collect()
    assert fake.closed == [1]


def test_views_are_writeable_and_private_to_the_batch(stream: _native.Stream) -> None:
    first = batch_of(stream)
    first["x"] += 100
    assert batch_of(stream)["x"].tolist() == [4, 5, 6, 7]
    assert first["x"].tolist() == [100, 101, 102, 103]


def test_release_in_another_thread(stream: _native.Stream, fake: FakeBinding) -> None:
    holder = [batch_of(stream)]
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    assert fake.released == [0]


def test_end_of_the_epoch(stream: _native.Stream) -> None:
    assert sum(1 for _ in iter(stream.next, None)) == 5
    assert stream.next() is None


def test_nothing_in_time_says_what_is_held(stream: _native.Stream, fake: FakeBinding) -> None:
    batch = batch_of(stream)
    fake.silent = True
    stream._timeout = -_native._GRACE_S  # no wait
    with pytest.raises(ss.DeadlineError, match="1 earlier batches are still referred to"):
        stream.next()
    del batch
    with pytest.raises(TimeoutError, match="shardstream status") as caught:
        stream.next()
    assert "earlier" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("etl_failed|Traceback ...", ss.ETLError),
        ("sample_error|it is gone", ss.SampleError),
        ("snapshot_changed|x", ss.SnapshotChangedError),
        ("snapshot_changed|x", ss.SnapshotChangedError),
        ("corrupt|block 3", ss.CorruptError),
        ("no_match|x", ss.NotFoundError),
        ("unavailable|x", ss.UnavailableError),
        ("what_is_this|x", ss.InternalError),
        ("no code", ss.InternalError),
    ],
)
def test_errors_by_their_codes(
    stream: _native.Stream, fake: FakeBinding, text: str, kind: type[Exception]
) -> None:
    fake.fail_at[1] = text
    with pytest.raises(kind) as caught:
        stream.next()
    assert str(caught.value) == text.partition("|")[2] or "|" not in text
    assert caught.value.__cause__ is None


def test_errors_of_samples_say_why(stream: _native.Stream, fake: FakeBinding) -> None:
    fake.fail_at = {
        1: "sample_error|etl_failed: sample 'k': Traceback ...",
        2: "sample_error|corrupt: sample 'k': block 3",
        3: "sample_error|changed: sample 'k': overwritten",
    }
    kinds = [(ss.SampleETLError, ss.ETLError), (ss.SampleCorruptError, ss.CorruptError)]
    for kind in [*kinds, (ss.SampleError,)]:
        with pytest.raises(kind[-1], match=r"^sample 'k'") as caught:
            stream.next()
        assert type(caught.value) is kind[0]
        assert isinstance(caught.value, ss.SampleError)
        assert caught.value.code in ("etl_failed", "corrupt", "changed")


def test_a_forked_child_gets_an_error_and_releases_nothing(
    stream: _native.Stream, fake: FakeBinding, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(stream)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _native._note_fork()  # what the hook does after the real module was loaded
            try:
                stream.next()
                answer = "no error"
            except ss.ForkedError as error:
                answer = str(error)
            del batch
            stream.close()
            answer += f" released={fake.released} closed={fake.closed}"
            os.write(writer, answer.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    assert "forkserver" in answer and "num_workers=0" in answer
    assert answer.endswith("released=[] closed=[]")
    assert batch["x"].tolist() == [0, 1, 2, 3]


def test_forked_error_survives_a_torch_worker() -> None:
    # torch makes a worker's exception anew from its type and text.
    error = ss.ForkedError("text")
    assert isinstance(error, RuntimeError)
    assert type(error)("again").args == ("again",)


def test_missing_native_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "_binding", None)
    monkeypatch.setitem(__import__("sys").modules, "shardstream._core._pybind", None)
    with pytest.raises(ImportError, match="native loader is missing"):
        _native.binding()


def test_next_returns_to_python_between_slices(
    stream: _native.Stream, fake: FakeBinding, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []

    def nothing(stream_id: int, timeout_ms: int) -> int:
        waits.append(timeout_ms)
        time.sleep(timeout_ms / 1000)
        if len(waits) == 3:
            raise KeyboardInterrupt
        return -2

    monkeypatch.setattr(fake, "pybind_Next", nothing)
    with pytest.raises(KeyboardInterrupt):
        stream.next()
    assert waits == [50, 50, 50]


def test_numpy_sub_view_of_bytes_keeps_the_slot(stream: _native.Stream, fake: FakeBinding) -> None:
    array = np.frombuffer(batch_of(stream)["raw"][3], np.uint8)
    assert fake.released == []
    assert array.tobytes() == b"3"
    del array
    assert fake.released == [0]

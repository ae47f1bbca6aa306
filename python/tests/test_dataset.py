"""Order, ranks, epochs and state, over a loader in Python."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
import threading
import time
import types
import warnings
from typing import Any

import numpy as np
import pytest
import shardstream as ss
from fakes import FakeBinding
from shardstream import _native
from shardstream._dataset import IterableDataset


def dataset(**options: Any) -> IterableDataset:
    return IterableDataset("ss://b/*.tar", **{"batch_size": 3, **options})


def numbers(batches: Any) -> list[list[int]]:
    return [batch["x"].tolist() for batch in batches]


def flat(batches: Any) -> list[int]:
    return [int(n) for batch in batches for n in batch["x"]]


def test_an_epoch(fake: FakeBinding) -> None:
    ds = dataset()
    batches = list(ds)
    assert [len(b["__key__"]) for b in batches] == [3, 3, 3, 3, 3, 3, 2]
    assert flat(batches) == fake.order(0)
    assert len(ds) == 7
    assert fake.started == [
        {
            "epoch": 0, "position": 0, "rank": 0, "world_size": 1, "worker": 0, "workers": 1,
            "snapshot": "",
        }
    ]  # fmt: skip


def test_the_config_that_go_gets(fake: FakeBinding) -> None:
    options = {"shuffle": None, "seed": 7, "etl": "e", "fields": ["x"], "timeout": 5}
    next(iter(dataset(on_error="skip", max_errors=np.float32(0.5), pad=True, **options)))
    config = fake.opened[0]
    config.pop("endpoint"), config.pop("token")
    assert config == {
        "sources": ["ss://b/*.tar"], "samples": "shards", "batch_size": 3, "shuffle": "none",
        "seed": 7, "etl": "e", "fields": ["x"], "decode": {},
        "drop_last": False, "prefetch": 4, "max_batch_bytes": 4 << 30,
        "on_error": "skip", "timeout_s": 5.0,
        "shared_memory": True, "compress": "auto", "read_ahead": True,
        "max_errors": {"fraction": 0.5}, "pad": True,
    }  # fmt: skip


def test_iter_does_nothing_before_the_first_batch(fake: FakeBinding) -> None:
    ds = dataset()
    for _ in range(3):
        iter(ds)
    assert fake.opened == [] and fake.started == []
    next(iter(ds))
    assert [s["epoch"] for s in fake.started] == [0]


def test_epochs_advance_by_themselves(fake: FakeBinding) -> None:
    ds = dataset()
    assert [flat(ds) for _ in range(3)] == [fake.order(e) for e in range(3)]
    assert len(fake.opened) == 1  # one loader, whose memory is reused


def test_set_epoch(fake: FakeBinding) -> None:
    ds = dataset()
    for epoch in (4, 4, 1):
        ds.set_epoch(epoch)
        assert flat(ds) == fake.order(epoch)
    assert flat(ds) == fake.order(2)
    with pytest.raises(ValueError, match="epoch must be 0"):
        ds.set_epoch(-1)


def test_set_epoch_during_an_epoch_is_for_the_next(fake: FakeBinding) -> None:
    ds = dataset()
    it = iter(ds)
    first = next(it)
    ds.set_epoch(7)
    assert flat([first, *it]) == fake.order(0)
    assert flat(ds) == fake.order(7)


def test_a_new_iteration_ends_the_one_before(fake: FakeBinding) -> None:
    ds = dataset()
    one, two = iter(ds), iter(ds)
    next(one)
    next(two)
    with pytest.raises(ss.ClosedError, match="two datasets"):
        next(one)
    assert next(one, None) is None
    assert len(list(two)) == 6


def test_an_ended_iteration_stays_ended(fake: FakeBinding) -> None:
    it = iter(dataset())
    list(it)
    assert next(it, None) is None
    assert len(fake.started) == 1


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_share_an_epoch(fake: FakeBinding, world: int) -> None:
    per_rank = [list(dataset(rank=rank, world_size=world)) for rank in range(world)]
    steps = {len(batches) for batches in per_rank}
    assert steps == {len(dataset(rank=0, world_size=world))}
    union = [
        int(n)
        for step in zip(*per_rank, strict=True)
        for batch in step
        if "__mask__" not in batch or batch["__mask__"].all()
        for n in batch["x"]
    ]
    assert union == fake.order(0)


def test_padding_is_masked(fake: FakeBinding) -> None:
    fake.samples = 9
    batches = [list(dataset(rank=rank, world_size=2, batch_size=4)) for rank in (0, 1)]
    assert "__mask__" not in batches[0][1]
    assert batches[1][1]["__mask__"].tolist() == [False]


def test_drop_last(fake: FakeBinding) -> None:
    ds = dataset(drop_last=True)
    assert [len(b["x"]) for b in ds] == [3] * 6
    assert len(ds) == 6


def test_ranks_come_from_the_environment(
    fake: FakeBinding, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = dataset()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    next(iter(ds))
    assert (fake.started[0]["rank"], fake.started[0]["world_size"]) == (1, 2)
    assert len(ds) == 4


def test_ranks_come_from_torch_distributed_first(
    fake: FakeBinding, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_rank=lambda: 2,
        get_world_size=lambda: 4,
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", module)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    next(iter(dataset()))
    assert (fake.started[0]["rank"], fake.started[0]["world_size"]) == (2, 4)
    next(iter(dataset(rank=1, world_size=3)))
    assert (fake.started[1]["rank"], fake.started[1]["world_size"]) == (1, 3)


# -- state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(8))
def test_resume_goes_on_where_the_state_stands_twice_over(fake: FakeBinding, k: int) -> None:
    ds = dataset(seed=3)
    list(ds)
    it = iter(ds)
    for _ in range(k):
        next(it)
    state = json.loads(json.dumps(ds.state_dict()))
    assert len(pickle.dumps(state)) < 1000
    rest = flat(it)
    following = flat(ds)
    for _ in range(2):
        resumed = dataset(seed=3)
        resumed.load_state_dict(state)
        # An iteration that has not begun stands at the beginning of its epoch.
        assert flat(resumed) == rest
        assert flat(resumed) == following


def test_resume_on_another_world_size(fake: FakeBinding) -> None:
    ds = dataset()
    it = iter(ds)
    head = [next(it), next(it)]
    state = ds.state_dict()
    parts = []
    for rank in range(2):
        part = dataset(rank=rank, world_size=2, batch_size=2)
        part.load_state_dict(state)
        parts.append(list(part))
    union = [int(n) for step in zip(*parts, strict=True) for b in step for n in b["x"]]
    assert flat(head) + union == fake.order(0)


def test_state_behind_the_end_is_the_next_epoch(fake: FakeBinding) -> None:
    ds = dataset()
    list(ds)
    state = ds.state_dict()
    assert (state["epoch"], state["position"]) == (1, 0)


def test_state_of_the_last_batch_resumes_to_nothing_more_of_its_epoch(fake: FakeBinding) -> None:
    ds = dataset()
    it = iter(ds)
    for _ in range(7):
        next(it)
    state = ds.state_dict()
    assert (state["epoch"], state["position"]) == (0, 20)
    resumed = dataset()
    resumed.load_state_dict(state)
    assert flat(resumed) == []
    assert flat(resumed) == fake.order(1)


def test_a_loaded_position_survives_set_epoch_of_the_same_epoch(fake: FakeBinding) -> None:
    ds = dataset()
    it = iter(ds)
    next(it)
    state = ds.state_dict()
    resumed = dataset()
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    assert flat(resumed) == fake.order(0)[3:]
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert flat(resumed) == fake.order(1)


def test_state_before_and_after_loading_needs_no_loader(fake: FakeBinding) -> None:
    ds = dataset()
    assert ds.state_dict() == {
        "version": 1, "snapshot": "", "seed": 0, "shuffle": "auto", "epoch": 0, "position": 0,
    }  # fmt: skip
    state = {**ds.state_dict(), "epoch": 3, "position": 6, "snapshot": fake.snapshot}
    ds.load_state_dict(state)
    assert ds.state_dict() == state
    assert fake.opened == []


def test_a_state_of_other_data_is_refused(fake: FakeBinding) -> None:
    ds = dataset()
    it = iter(ds)
    next(it)
    state = ds.state_dict()
    assert state["snapshot"] == "snapshot-of-20"
    fake.snapshot = "another"
    resumed = dataset()
    resumed.load_state_dict(state)
    with pytest.raises(ss.SnapshotChangedError):
        next(iter(resumed))
    # The refusal has used nothing up.
    fake.snapshot = "snapshot-of-20"
    assert flat(resumed) == fake.order(0)[3:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed=1"),
        ({"shuffle": "shards"}, "shuffle='shards'"),
        ({"version": 2}, "version 2"),
        ({"position": -1}, "position"),
        ({"worker": 0, "workers": 2}, "worker 0 of 2"),
        ({"workers": 2}, "worker None of 2"),
        ({"epoch": 2**63 - 1}, "epoch"),
        ({"snapshot": 5}, "not a state"),
        ({"snapshot": "x" * 1000}, "not a state"),
    ],
)
def test_a_state_of_another_dataset_is_refused(change: dict[str, Any], words: str) -> None:
    state = {**dataset().state_dict(), **change}
    with pytest.raises(ValueError, match=words):
        dataset().load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"version": 1}, None, 3])
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match="not a state"):
        dataset().load_state_dict(state)


def test_consumed_counts_from_where_the_epoch_began(fake: FakeBinding) -> None:
    ds = dataset()
    it = iter(ds)
    for _ in range(5):
        next(it)
    assert ds.state_dict(consumed=2)["position"] == 6
    ds.load_state_dict(ds.state_dict(consumed=2))
    it = iter(ds)
    next(it)
    next(it)
    assert ds.state_dict(consumed=1)["position"] == 9
    ds.load_state_dict({**ds.state_dict(), "position": 10**6})
    assert flat(ds) == []


def test_a_failure_before_the_first_batch_uses_nothing_up(fake: FakeBinding) -> None:
    ds = dataset()
    it = iter(ds)
    next(it)
    state = ds.state_dict()
    resumed = dataset()
    resumed.load_state_dict(state)
    fake.fail_at[2] = "unavailable|no cluster"
    resuming = iter(resumed)
    with pytest.raises(ss.UnavailableError):
        next(resuming)
    assert resumed.state_dict() == state
    assert flat(resuming) == fake.order(0)[3:]


def test_a_failure_later_ends_the_pass_and_the_state_stands_before_it(fake: FakeBinding) -> None:
    ds = dataset()
    it = iter(ds)
    fake.fail_at[3] = "sample_error|sample 'x'"
    next(it)
    next(it)
    with pytest.raises(ss.SampleError):
        next(it)
    assert next(it, None) is None
    assert ds.state_dict()["position"] == 6


def test_a_batch_that_an_interrupt_swallowed_is_noticed(
    fake: FakeBinding, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = dataset()
    it = iter(ds)
    first = next(it)
    with monkeypatch.context() as patch:
        patch.setattr(
            _native.Stream, "_lease", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            next(it)
    with pytest.raises(ss.ClosedError, match="lost"):
        next(it)
    ds.load_state_dict(ds.state_dict())
    assert flat([first, *ds]) == fake.order(0)


def test_a_late_batch_does_not_end_the_pass(fake: FakeBinding) -> None:
    ds = dataset(timeout=1e-9)
    it = iter(ds)
    first = next(it)
    fake.fail_at[2] = "timeout|nothing yet"
    with pytest.raises(TimeoutError):
        next(it)
    assert flat([first, *it]) == fake.order(0)


# -- copies -----------------------------------------------------------------------------------


def test_pickles_are_small_and_take_the_plan_along(fake: FakeBinding) -> None:
    ds = dataset(seed=3, etl="augment", rank=1, world_size=8)
    assert len(pickle.dumps(ds)) < 1000
    it = iter(ds)
    next(it)
    assert len(pickle.dumps(ds)) < 1000
    ds.load_state_dict({**ds.state_dict(), "epoch": 2, "position": 6})
    for twin in (pickle.loads(pickle.dumps(ds)), copy.copy(ds), copy.deepcopy(ds)):
        assert (twin.state_dict(), repr(twin)) == (ds.state_dict(), repr(ds))
        twin.set_epoch(9)
    assert ds.state_dict()["epoch"] == 2


def test_states_keep_the_shuffle_that_was_chosen(fake: FakeBinding) -> None:
    fake.choice = {"shuffle": "window", "slices": 1, "window": 12}
    ds = dataset()
    assert ds.state_dict()["shuffle"] == "auto"
    next(iter(ds))
    assert fake.opened[-1]["shuffle"] == ""
    state = json.loads(json.dumps(ds.state_dict()))
    assert {name: state[name] for name in fake.choice} == fake.choice
    fake.choice = {"shuffle": "window", "slices": 1, "window": 4}  # the cache has shrunk since
    resumed = dataset()
    resumed.load_state_dict(state)
    next(iter(resumed))
    asked = {name: fake.opened[-1][name] for name in ("shuffle", "slices", "window")}
    assert asked == {"shuffle": "window", "slices": 1, "window": 12}
    assert resumed.state_dict()["window"] == 12
    ds.load_state_dict(state)  # into one that has streamed
    next(iter(ds))
    assert fake.opened[-1]["window"] == 12


def test_states_of_other_windows_are_refused(fake: FakeBinding) -> None:
    fake.choice = {"shuffle": "window", "slices": 1, "window": 12}
    ds = dataset()
    next(iter(ds))
    with pytest.raises(ValueError, match="window=12"):
        dataset(shuffle="window").load_state_dict(ds.state_dict())
    # A state that was made when global was the default.
    old = {**dataset(shuffle="global").state_dict(), "position": 6, "snapshot": fake.snapshot}
    ds = dataset()
    ds.load_state_dict(old)
    next(iter(ds))
    assert fake.opened[-1]["shuffle"] == "global"


def test_repr() -> None:
    assert repr(dataset(etl="augment")) == (
        "IterableDataset('ss://b/*.tar', batch_size=3, shuffle='auto', seed=0, etl='augment')"
    )
    chain = dataset(etl=["crop", "flip"], etl_args=[{"size": 6}, None])
    assert "etl='crop,flip', etl_args=[{'size': 6}, None]" in repr(chain)


def test_arguments_of_transformations_reach_go_and_the_cluster(fake: FakeBinding) -> None:
    given = {"size": [6, 7]}
    ds = dataset(etl="crop", etl_args=given)
    given["size"].append(8)
    for twin in (ds, pickle.loads(pickle.dumps(ds)), copy.deepcopy(ds)):
        next(iter(twin))
        assert fake.opened[-1]["etl_args"] == {"size": [6, 7]}
        assert twin._description()["etl_args"] == {"size": [6, 7]}
    assert "etl_args" not in dataset(etl="crop")._description()


def test_close_and_context_manager(fake: FakeBinding) -> None:
    with dataset() as ds:
        kept = next(iter(ds))
        assert ds.stats()["snapshot"] == fake.snapshot
    ds.close()
    assert fake.closed == [1]
    assert ds.stats() == {}
    assert kept["x"].tolist() == fake.order(0)[:3]
    with pytest.raises(ss.ClosedError):
        next(iter(ds))


def test_stats_before_the_first_batch(fake: FakeBinding) -> None:
    assert dataset().stats() == {}
    assert fake.opened == []


def test_info_and_truth(fake: FakeBinding) -> None:
    ds = dataset()
    assert ds.info() == {"samples": 20, "batches": 7, "snapshot": "snapshot-of-20"}
    fake.samples = 0
    assert len(dataset()) == 0
    assert dataset()


def test_skipped_samples_are_warned_of(fake: FakeBinding) -> None:
    fake.skipped = 2
    with pytest.warns(ss.SkippedSampleWarning, match="2 samples were left out.*a, b") as warned:
        next(iter(dataset(on_error="warn")))
    assert warned[0].filename == __file__  # the line that asked for the batch
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(iter(dataset(on_error="skip")))


def test_threads_may_share_an_iteration(fake: FakeBinding, monkeypatch: pytest.MonkeyPatch) -> None:
    start = fake.pybind_Start

    def slow_start(stream: int, iteration: str) -> int:
        time.sleep(0.05)  # all threads ask for the first batch meanwhile
        return start(stream, iteration)

    monkeypatch.setattr(fake, "pybind_Start", slow_start)
    batches = iter(dataset())
    seen: list[str] = []
    threads = [
        threading.Thread(target=lambda: seen.extend(key for b in batches for key in b["__key__"]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(seen) == sorted(key for b in dataset() for key in b["__key__"])


def test_a_fork_after_use_is_an_error_in_the_child(fake: FakeBinding) -> None:
    ds = dataset()
    it = iter(ds)
    next(it)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _native._note_fork()
        answers = []
        for one in (it, iter(ds), iter(dataset())):
            try:
                next(one)
                answers.append("no error")
            except ss.ForkedError:
                answers.append("ForkedError")
        os.write(writer, " ".join(answers).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "ForkedError ForkedError ForkedError"
    os.waitpid(pid, 0)
    assert len(list(it)) == 6

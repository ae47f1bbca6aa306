"""The ledger that a dataset shares with its copies in DataLoader workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from typing import Any

from shardstream._epochs import Began, Ledger, Plan

ZERO = Plan(0, 0)
TRAINER = 4711


def join(ledger: Ledger, seed: int, worker: int, round_: int = 1, own: Plan | None = None) -> Plan:
    return ledger.join(TRAINER, seed, round_, worker, ZERO, own)


def test_epochs_advance() -> None:
    ledger = Ledger()
    assert [ledger.begin(TRAINER, ZERO).epoch for _ in range(4)] == [0, 1, 2, 3]


def test_a_plan_is_taken_once_and_then_epochs_are_whole() -> None:
    ledger = Ledger()
    ledger.set(TRAINER, Plan(5, 37))
    assert ledger.peek(TRAINER, ZERO) == (5, 37)
    assert [ledger.begin(TRAINER, ZERO) for _ in range(3)] == [(5, 37), (6, 0), (7, 0)]


def test_the_last_plan_counts() -> None:
    ledger = Ledger()
    ledger.set(TRAINER, Plan(5, 37))
    ledger.set(TRAINER, Plan(2, 0))
    assert ledger.begin(TRAINER, ZERO) == (2, 0)


def test_workers_of_one_pass_take_the_same_epoch() -> None:
    ledger = Ledger()
    assert [join(ledger, seed=8, worker=w) for w in (1, 0, 2)] == [(0, 0)] * 3
    assert [join(ledger, seed=9, worker=w) for w in (0, 2, 1)] == [(1, 0)] * 3


def test_a_worker_that_never_began_does_not_fall_behind() -> None:
    ledger = Ledger()
    join(ledger, seed=8, worker=0)  # worker 1 was stopped before its first batch
    assert [join(ledger, seed=9, worker=w).epoch for w in (1, 0)] == [1, 1]


def test_workers_that_live_on() -> None:
    ledger = Ledger()
    for round_ in (1, 2, 3):
        plans = [join(ledger, seed=8, worker=w, round_=round_) for w in (0, 1)]
        assert plans == [(round_ - 1, 0)] * 2


def test_passes_with_the_same_seed_are_told_apart() -> None:
    ledger = Ledger()
    for epoch in range(3):  # DataLoader(generator=...) seeded the same each time
        assert [join(ledger, seed=8, worker=w).epoch for w in (0, 1)] == [epoch] * 2


def test_a_plan_closes_the_pass_before_it() -> None:
    ledger = Ledger()
    join(ledger, seed=8, worker=0)
    ledger.set(TRAINER, Plan(7, 3))
    assert [join(ledger, seed=8, worker=w) for w in (1, 0)] == [(7, 3)] * 2


def test_interleaved_passes() -> None:
    ledger = Ledger()
    assert join(ledger, seed=1, worker=0).epoch == 0
    assert join(ledger, seed=2, worker=0).epoch == 1
    assert join(ledger, seed=1, worker=1).epoch == 0
    assert join(ledger, seed=2, worker=1).epoch == 1


def test_states_of_single_workers() -> None:
    ledger = Ledger()
    assert join(ledger, seed=1, worker=0, own=Plan(3, 16)) == (3, 16)
    assert join(ledger, seed=1, worker=1, own=Plan(3, 24)) == (3, 24)
    assert [join(ledger, seed=2, worker=w) for w in (0, 1)] == [(4, 0)] * 2


def test_trainers_do_not_mix() -> None:
    ledger = Ledger()
    ledger.set(TRAINER, Plan(9, 0))
    assert ledger.begin(TRAINER + 1, Plan(1, 0)) == (1, 0)
    assert ledger.begin(TRAINER, ZERO) == (9, 0)


def test_last() -> None:
    ledger = Ledger()
    assert ledger.last(TRAINER) is None
    join(ledger, seed=1, worker=0)
    assert ledger.last(TRAINER) == Began(ZERO, 0)
    ledger.begin(TRAINER, ZERO)
    assert ledger.last(TRAINER) == Began(Plan(1, 0), -1)
    ledger.set(TRAINER, ZERO)
    assert ledger.last(TRAINER) is None


def test_the_page_is_a_ring() -> None:
    ledger = Ledger()
    for epoch in range(3000):
        assert ledger.begin(TRAINER, ZERO) == (epoch, 0)


def test_snapshot() -> None:
    ledger = Ledger()
    assert ledger.snapshot == ""
    ledger.snapshot = "ab" * 32
    ledger.begin(TRAINER, ZERO)
    assert ledger.snapshot == "ab" * 32
    ledger.snapshot = ""
    assert ledger.snapshot == ""


def test_a_plain_copy_is_a_ledger_of_its_own() -> None:
    ledger = Ledger()
    ledger.begin(TRAINER, ZERO)
    copy = pickle.loads(pickle.dumps(ledger))
    assert copy.peek(TRAINER, ZERO) == ZERO
    assert len(pickle.dumps(ledger)) < 100


def _begin(ledger: Ledger) -> None:
    ledger.begin(TRAINER, ZERO)


def test_a_child_of_any_kind_shares_the_page() -> None:
    ledger = Ledger()
    for epoch, method in enumerate(("fork", "spawn", "forkserver"), start=1):
        context: Any = multiprocessing.get_context(method)
        process = context.Process(target=_begin, args=(ledger,))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert ledger.peek(TRAINER, ZERO) == (epoch, 0), method


def test_concurrent_processes_take_different_epochs() -> None:
    ledger = Ledger()
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            for _ in range(100):
                ledger.begin(TRAINER, ZERO)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert ledger.peek(TRAINER, ZERO).epoch == 400


def test_no_file_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        Ledger()
    assert len(os.listdir("/proc/self/fd")) == before

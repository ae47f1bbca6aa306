"""Which part of an epoch is this process's: its rank, and its place among a DataLoader's workers.

torch is asked only where it is loaded already.
"""

from __future__ import annotations

import multiprocessing.process
import os
import sys
from dataclasses import dataclass

from ._arguments import rank_pair


@dataclass(frozen=True)
class Worker:
    """This process as a DataLoader worker."""

    number: int
    count: int
    seed: int  # of the DataLoader's pass, the same in all its workers
    trainer: int  # pid of the process that it works for


def this_worker() -> Worker | None:
    """This process as a DataLoader worker, if it is one."""
    data = sys.modules.get("torch.utils.data")
    info = None if data is None else data.get_worker_info()
    if info is None:
        return None
    parent = multiprocessing.process.parent_process()
    trainer = os.getppid() if parent is None or parent.pid is None else parent.pid
    return Worker(info.id, info.num_workers, int(info.seed) - int(info.id), trainer)


def ranks_of_process() -> tuple[int, int]:
    """(rank, world size): of torch.distributed, else of RANK and WORLD_SIZE, else (0, 1)."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None and world is None:
        return 0, 1
    try:
        pair = rank_pair(int(rank or "none"), int(world or "none"))
    except ValueError as error:
        raise ValueError(
            f"RANK={rank!r}, WORLD_SIZE={world!r} in the environment: {error}"
        ) from None
    assert pair[0] is not None and pair[1] is not None
    return pair[0], pair[1]

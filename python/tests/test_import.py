from __future__ import annotations

import importlib.metadata
import subprocess
import sys

SCRIPT = """
import os, sys
before = len(os.listdir("/proc/self/task"))
import shardstream
client = shardstream.Client("http://127.0.0.1:1")
assert len(os.listdir("/proc/self/task")) == before == 1, "a thread was started"
heavy = [m for m in ("numpy", "torch") if m in sys.modules]
heavy += [m for m in sys.modules if m.startswith("shardstream._core")]
assert not heavy, heavy
assert "_pybind" not in open("/proc/self/maps").read(), "Go is loaded"
"""


def test_import_starts_no_thread_and_loads_no_go_numpy_or_torch() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], check=True, timeout=60)


def test_making_a_dataset_loads_no_go() -> None:
    script = SCRIPT.split("heavy =")[0] + (
        'ds = shardstream.IterableDataset("ss://b/*.tar", batch_size=2)\n'
        "iter(ds); ds.state_dict(); repr(ds)\n"
        'assert "_pybind" not in open("/proc/self/maps").read(), "Go is loaded"\n'
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_dataset_of_numpy_imports_no_torch() -> None:
    script = (
        "import sys\n"
        "from shardstream.numpy import IterableDataset\n"
        'IterableDataset("ss://b/*.tar", batch_size=2)\n'
        'assert "torch" not in sys.modules\n'
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_numpy_is_the_only_requirement_without_an_upper_bound() -> None:
    needs = importlib.metadata.requires("shardstream") or []
    assert [need for need in needs if "extra ==" not in need] == ["numpy>=1.24"]

"""A process that streams for long stays as large as it was, and gives back what it took."""

from __future__ import annotations

import json
from typing import Any

import pytest
import shardstream as ss
from clusters import Cluster, tar_of

# What the scripts below share: `holdings()` counts this process's descriptors, the files and memory
# that it has mapped, and its threads; `resident()` is its memory in bytes, without the pages of
# files on disks.
COMMON = """
import gc, json, os, sys, time
from shardstream._dataset import IterableDataset

def holdings():
    gc.collect()
    maps = [line for line in open("/proc/self/maps") if "shardstream" in line]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mappings": len(maps),
        "slots": sum("memfd" in line for line in maps),
        "threads": len(os.listdir("/proc/self/task")),
    }

def resident():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))

def dataset(source=sys.argv[1], **options):
    return IterableDataset(source, **{"batch_size": 16, "timeout": 20, "prefetch": 2, **options})
"""


@pytest.fixture(scope="module")
def source(cluster: Cluster) -> str:
    """16 MiB in 8 shards."""
    with ss.Client(cluster.endpoint) as client:
        bucket = client.bucket("leaks").create()
        for number in range(8):
            members = {f"{number:02}-{i:03}.bin": bytes([i]) * (64 << 10) for i in range(32)}
            bucket.put(f"{number}.tar", tar_of(members))
    return "ss://leaks/*.tar"


def script(cluster: Cluster, text: str, *args: str) -> Any:
    done = cluster.python(COMMON + text, *args)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("shared", [True, False])
def test_memory_is_flat_over_20_epochs(cluster: Cluster, source: str, shared: bool) -> None:
    """Of 20 epochs of 16 MiB, the last ten take no more memory than the first ten did."""
    seen = script(
        cluster,
        """
rows = []
with dataset(shared_memory=sys.argv[2] == "True") as ds:
    for epoch in range(23):
        ds.set_epoch(epoch)
        total = sum(len(data) for batch in ds for data in batch["bin"])
        assert total == 256 * (64 << 10)
        rows.append({**holdings(), "resident": resident()})
print(json.dumps(rows[3:]))
""",
        source,
        str(shared),
    )
    assert len(seen) == 20
    for what in ("descriptors", "mappings", "threads"):
        first, last = (max(row[what] for row in part) for part in (seen[:10], seen[10:]))
        if what == "descriptors":  # a connection may be made anew before the old one is gone
            last = min(row[what] for row in seen[-3:])
        # The runtime may start a thread late, for a system call that took long.
        assert last <= first + (3 if what == "threads" else 0), (what, seen)
    first, last = (max(row["resident"] for row in part) for part in (seen[:10], seen[10:]))
    # 2 % of what went through in those ten epochs.
    assert last - first < 3 << 20, [row["resident"] >> 10 for row in seen]


ENDS = {
    "a whole epoch": "with dataset() as ds: list(ds)",
    "given up, closed": "with dataset() as ds: next(iter(ds))",
    "given up, dropped": "next(iter(dataset()))",
    "a batch that outlives it": "ds = dataset(); kept = next(iter(ds)); ds.close(); del ds, kept",
    "another epoch begun": "ds = dataset(); next(iter(ds)); next(iter(ds)); ds.close()",
    "never iterated": "dataset().close()",
    "no such source": """
try: next(iter(dataset("ss://leaks/none-*.tar")))
except Exception as e: assert type(e).__name__ == "NotFoundError", e
else: raise AssertionError
""",
    "no such transformation": """
try: next(iter(dataset(etl="none")))
except Exception as e: assert type(e).__name__ == "NotFoundError", e
else: raise AssertionError
""",
    "no cluster there": """
try: next(iter(dataset(endpoint="http://127.0.0.1:9", timeout=0.1)))
except Exception as e: assert type(e).__name__ in ("UnavailableError", "DeadlineError"), e
else: raise AssertionError
""",
}


def test_nothing_is_left_however_it_ends(cluster: Cluster, source: str) -> None:
    """Ten times each, after three to warm up: no descriptor, mapping or thread more than before."""
    for name, count in script(
        cluster,
        """
def end(code):
    exec(code, globals().copy())

seen = {}
ends = json.loads(sys.argv[2])
for _ in range(3):
    for code in ends.values():
        end(code)
for name, code in ends.items():
    before = holdings()
    for _ in range(10):
        end(code)
    seen[name] = [before, holdings()]
print(json.dumps(seen))
""",
        source,
        json.dumps(ENDS),
    ).items():
        before, after = count
        assert after["slots"] == 0, (name, after)
        assert after["descriptors"] <= before["descriptors"] + 1, (name, before, after)
        assert after["mappings"] <= before["mappings"], (name, before, after)
        assert after["threads"] <= before["threads"] + 3, (name, before, after)

"""The stock webdataset package reads our shards by their URLs: redirects, pipes and all."""

from __future__ import annotations

import zlib

import pytest
from clusters import Cluster, payload
from conftest import SAMPLES, SHARDS

pytest.importorskip("torch", reason="webdataset imports torch")
pytest.importorskip("webdataset", reason="webdataset is not installed")

SCRIPT = """
import sys, zlib
import webdataset as wds
url = sys.argv[1]
for sample in wds.WebDataset(url, shardshuffle=False).decode():
    assert isinstance(sample["cls"], int)
    print(sample["__key__"], zlib.crc32(sample["bin"]), sample["cls"])
"""


@pytest.mark.parametrize("scheme", ["{url}", "pipe:curl -s -L {url}"])
def test_stock_webdataset_iterates_our_urls(cluster: Cluster, scheme: str) -> None:
    base = f"{cluster.endpoint}/v1/objects/train/shard-{{0..{len(SHARDS) - 1}}}.tar"
    done = cluster.python(SCRIPT, scheme.format(url=base))
    assert done.returncode == 0, done.stderr
    want = [f"{n:06} {zlib.crc32(payload(n))} {n}" for n in range(SAMPLES)]
    assert done.stdout.splitlines() == want

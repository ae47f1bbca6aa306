"""A dataset in a Jupyter kernel: the stop button works, and the session goes on."""

from __future__ import annotations

from typing import Any

import pytest
import shardstream as ss
from clusters import Cluster, wait_for

manager = pytest.importorskip("jupyter_client.manager", reason="jupyter_client is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

OPEN = """
import shardstream as ss
ds = ss.IterableDataset("ss://train/shard-*.tar", batch_size=16, etl="sleeps", timeout=100)
it = iter(ds)
"""
AFTERWARDS = """
other = ss.IterableDataset("ss://train/shard-*.tar", batch_size=16)
print(sum(len(batch["__key__"]) for batch in other))
"""


def sleeps(sample: dict[str, Any]) -> dict[str, Any]:
    import time

    time.sleep(60)
    return sample


def outcome(kernel: Any, code: str) -> tuple[str, str]:
    """Run a cell; returns what it printed and the name of its error."""
    printed: list[str] = []

    def show(message: Any) -> None:
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            printed.append(message["content"]["text"])

    reply = kernel.execute_interactive(code, output_hook=show, timeout=60)
    return "".join(printed), reply["content"].get("ename", "")


def test_the_stop_button(cluster: Cluster, client: ss.Client) -> None:
    client.etl.create("sleeps", sleeps, timeout=120)
    running, kernel = manager.start_new_kernel(env=cluster.environment)
    try:
        assert outcome(kernel, OPEN) == ("", "")
        message = kernel.execute("print('waiting', flush=True); next(it)")
        wait_for(lambda: kernel.get_iopub_msg(timeout=60)["content"].get("text") == "waiting\n")
        running.interrupt_kernel()
        while (reply := kernel.get_shell_msg(timeout=30))["parent_header"]["msg_id"] != message:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert outcome(kernel, AFTERWARDS) == ("227\n", "")
    finally:
        kernel.stop_channels()
        running.shutdown_kernel(now=True)
        client.etl.delete("sleeps")

"""The movement of objects, and scrubs, from Python, on a real cluster."""

from __future__ import annotations

import pytest
import shardstream as ss


def test_a_rebalance_is_watched_stopped_and_started(client: ss.Client) -> None:
    assert client.rebalance.wait(60)["state"] == "idle"
    assert client.rebalance.stop()["state"] == "stopped"
    try:
        assert client.rebalance.wait(5)["state"] == "stopped"
        assert client.status()["rebalance"]["state"] == "stopped"
    finally:
        started = client.rebalance.start()
    assert started["state"] != "stopped"
    assert client.rebalance.wait(60)["state"] == "idle"


def test_a_scrub_reads_all_of_a_bucket(client: ss.Client) -> None:
    bucket = client.bucket("scrubbed").create()
    for i in range(10):
        bucket.put(f"{i}", b"x" * 1000)
    status = client.scrub("scrubbed").wait(60)
    assert (status.kind, status.state, status.total) == ("scrub", "done", 10)
    assert (status.done, status.failed, status.repaired) == (10, 0, 0)
    assert status.bytes_in == 10_000
    assert client.scrub().wait(60).done >= 10
    with pytest.raises(ss.NotFoundError):
        client.scrub("nosuch")

"""Programs of several processes, by torchrun, with gloo."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from clusters import Cluster

EXAMPLES = Path(__file__).parents[1] / "examples"


def torchrun(cluster: Cluster, processes: int, *command: str | Path, seconds: float = 120) -> str:
    """Run a program on some processes of this machine; returns what they print.

    A program that hangs is ended, with all its processes, and fails the test.
    """
    launcher = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run"),
            *("--standalone", "--nproc-per-node", str(processes)),
            *map(str, command),
        ],
        env={**cluster.environment, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = launcher.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        launcher.send_signal(signal.SIGTERM)  # torchrun then ends its processes
        output, errors = launcher.communicate(timeout=60)
        raise AssertionError(f"no end after {seconds} s: {output}\n{errors}") from None
    assert launcher.returncode == 0, f"{output}\n{errors}"
    return output

"""A neighbour that takes the cores makes a run's timing inconclusive, and is named."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import SMALL, arguments, call

pytestmark = pytest.mark.alone

# It ends by itself, should nobody end it.
SPIN = "import time\nend = time.monotonic() + 200\nwhile time.monotonic() < end: pass"


@contextmanager
def thieves() -> Iterator[set[int]]:
    """A foreign program on each core that the run may use."""
    running = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in os.sched_getaffinity(0)]
    try:
        yield {process.pid for process in running}
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_stolen_cores_end_a_run_that_requires_timing_with_3_and_their_thief(tmp_path: Path) -> None:
    words = arguments("run", "1p1d.yaml", tmp_path / "runs", *SMALL, "workload.agents=16")
    with thieves() as pids:
        result = call([*words, "--require", "timing"], tmp_path / "cache", code=3)
    assert result["verdict"]["functional"] == "passed"
    assert result["verdict"]["timing"] == "inconclusive"
    (cause,) = (one for one in result["verdict"]["causes"] if "other programs used" in one)
    timing = result["policies"]["dualpath"]["timing"]
    first, *_ = timing["others"]
    assert f"most by {first['name']} (process {first['pid']}," in cause
    # Somebody else may be busier still.
    assert pids & {one["pid"] for one in timing["others"]}
    assert timing["foreign"]["value"] > timing["foreign"]["limit"]
    assert set(timing["run_delays"]) >= {"pe0-gpu", "de0-gpu", "pe0-buf", "de0-buf", "store0"}

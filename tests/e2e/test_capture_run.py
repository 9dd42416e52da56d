"""A capture of a whole run agrees with the ledger of its results, to the byte."""

import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster import ROOT, arguments, environment

from testbed.capture.agree import differing, with_ledger
from testbed.capture.records import Frame
from testbed.capture.summary import summarise
from testbed.clusters import names
from testbed.clusters.client import Cluster
from testbed.clusters.recording import record
from testbed.errors import DualPathError

# Losing no packet takes a core for whoever captures.
pytestmark = pytest.mark.alone

LINKS = ("pe0-buf:snic", "de0-buf:snic", "pe0-gpu:cnic", "de0:uplink")
START_S = 60.0


def live(name: str) -> Cluster:
    """The run's cluster as soon as it answers, which is before its agents start."""
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            cluster = Cluster(next(known for known in names.live() if known.startswith(name)))
            cluster.look()
            return cluster
        except (DualPathError, StopIteration):
            assert time.monotonic() < deadline_s, f"no cluster {name} after {START_S:g} s"
            time.sleep(0.02)  # between two looks


def test_a_capture_of_a_run_agrees_with_the_ledger_of_its_results(tmp_path: Path) -> None:
    name = f"seen-{tmp_path.name}"[:40].replace("_", "-")
    file = tmp_path / f"{name}.yaml"
    file.write_text((ROOT / "topologies" / "1p1d.yaml").read_text())
    words = arguments("run", str(file), tmp_path, "workload.agents=6", "workload.turns=2")
    with subprocess.Popen(
        words, env=environment(tmp_path / "cache"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            cluster = live(name)
            captures = [record(cluster, link, tmp_path / f"{link}.pcapng") for link in LINKS]
            with ExitStack() as running:
                ends = [running.enter_context(one.in_background()) for one in captures]
                out, err = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 0, err.decode()
    (result,) = json.loads(out)["policies"].values()
    expected = {line["port"]: line["expected_bytes"] for line in result["ledger"]}
    for link, end in zip(LINKS, ends, strict=True):
        frames: list[Frame] = []
        summary = summarise(tmp_path / f"{link}.pcapng", frames.append)
        assert end().dropped == 0 and not summary.mis_marked
        lines = with_ledger(summary, expected)
        assert len(lines) == 2 and sum(line.counted for line in lines) > 0
        assert not [str(line) for line in differing(lines)]
        for frame in frames:
            assert frame.missing_bytes == 0 and frame.marks in ((8,), (46,))
        if link == "pe0-gpu:cnic":  # every turn's KV comes and goes here
            assert len({frame.request for frame in frames if frame.payload_bytes}) == 12

"""Storage NICs of 2P4D under unequal sessions: how even, and where the queue for them waits."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from engines.buffer import Buffer
from engines.messages import Report
from testbed.cli.main import main

FILE = Path(__file__).parents[2] / "topologies" / "2p4d.yaml"
SETTINGS = (
    "model=deepseek-v3.2-660b", "workload.agents=1024", "workload.turns=3", "workload.spread=0.9",
    "scale.layers=1", "engine.fetch_period_s=0.1",
)  # fmt: skip
IN_FLIGHT = 6  # reads at a storage NIC
NODES = 6


class Buffers:
    """Every buffer that ran, in order, and how many turns waited for a read at each report."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[Buffer] = []
        self.in_line: dict[Buffer, list[tuple[float, int]]] = defaultdict(list)
        run, report = Buffer.run, Buffer._report

        async def noted(buffer: Buffer) -> None:
            self.ran.append(buffer)
            await run(buffer)

        def looked_at(buffer: Buffer) -> Report:
            self.in_line[buffer].append((buffer._clock.now_s(), buffer._reads.in_line))
            return report(buffer)

        monkeypatch.setattr(Buffer, "run", noted)
        monkeypatch.setattr(Buffer, "_report", looked_at)


def mean_undecided(log: Path, window_s: list[float]) -> float:
    """Turns that had arrived and were not decided: the mean over a window's events."""
    waiting, found = 0, []
    for line in log.read_text().splitlines():
        event = json.loads(line)
        waiting += {"arrived": 1, "decided": -1}.get(event["event"], 0)
        if window_s[0] < event["at_s"] < window_s[1]:
            found.append(waiting)
    return fmean(found)


def test_reads_are_even_few_at_a_time_and_the_queue_waits_in_the_scheduler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers = Buffers(monkeypatch)
    words = ["compare", str(FILE), "--world", "virtual", "--runs", str(tmp_path), "--json",
             "--require", "functional", "--policies", "round-robin,dualpath"]  # fmt: skip
    for setting in (*SETTINGS, f"engine.reads_in_flight={IN_FLIGHT}"):
        words += ["--set", setting]
    assert main(words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["policies"]
    balance = {name: policy["snic_balance"] for name, policy in found.items()}
    assert all(one["reads_per_snic"] >= 100 for one in balance.values())
    assert balance["dualpath"]["max_over_mean"] <= 1.18  # DualPath, section 7
    assert balance["round-robin"]["max_over_mean"] >= 1.4

    assert [buffer.account["most_reads"] for buffer in buffers.ran] == [IN_FLIGHT] * 2 * NODES
    window_s = found["dualpath"]["window_s"]
    most = [
        max(count for at_s, count in buffers.in_line[buffer] if window_s[0] < at_s < window_s[1])
        for buffer in buffers.ran[NODES:]
    ]
    (log,) = tmp_path.glob("*/dualpath/events.jsonl")
    assert 4 * sum(most) < mean_undecided(log, window_s)

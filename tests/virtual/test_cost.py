"""What a turn costs us, in calls: wall time would say more of the machine than of the code."""

import cProfile
import json
from pathlib import Path
from typing import Any

import pytest

from engines.modelled.loop import run_virtual
from testbed.cli.main import main
from testbed.worlds import virtual

ROOT = Path(__file__).parents[2]
# It takes 1,850; whoever needs more for a good reason moves the limit.
MOST_CALLS = 2000


def test_a_turn_takes_few_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = cProfile.Profile()

    def counted(*args: Any) -> Any:
        return profile.runcall(run_virtual, *args)

    monkeypatch.setattr(virtual, "run_virtual", counted)
    command = ["run", str(ROOT / "topologies/2p4d-27b.yaml"), "--world", "virtual", "--json"]
    command += ["--runs", str(tmp_path), "--set", "scale.layers=1"]
    command += ["--set", "workload.turns=2", "--set", "workload.agents=1200"]
    assert main(command) == 0
    turns = json.loads(capsys.readouterr().out)["policies"]["dualpath"]["completed_turns"]
    calls = sum(entry.callcount for entry in profile.getstats())
    assert turns == 2400 and calls / turns < MOST_CALLS, f"{calls / turns:.0f} calls a turn"

"""1,152 GPUs in virtual time: loads, plays, and spreads its work over all of them."""

import json
from pathlib import Path

import pytest

from testbed.cli.main import main
from testbed.worlds import virtual

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("group_nodes", [1, 12])
def test_the_papers_largest_cluster_plays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], group_nodes: int
) -> None:
    settings = [
        "workload.agents=960", "workload.turns=1", "workload.mid_decode=0",
        "workload.generate_tokens=128", "engine.fetch_period_s=0.2",
        f"cluster.group_nodes={group_nodes}",
    ]  # fmt: skip
    command = ["run", str(ROOT / "topologies/48p96d.yaml"), "--world", "virtual", "--json"]
    command += ["--runs", str(tmp_path), *(w for setting in settings for w in ("--set", setting))]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)["policies"]["dualpath"]
    assert result["completed_turns"] == 960 and result["failed_turns"] == 0
    assert result["tokens_checked"] == result["tokens_equal"] >= 960
    assert len(result["nodes"]) == 144
    for line in result["ledger"]:
        assert line["counted_bytes"] == line["expected_bytes"], line["port"]
    (log,) = tmp_path.glob("*/*/events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    decided = [event for event in events if event["event"] == "decided"]
    # 960 contexts for 768 DEs: every one has work.
    assert len({event["de"] for event in decided}) == 768


def test_a_long_run_keeps_fewer_samples_of_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["run", str(ROOT / "topologies/1p1d.yaml"), "--world", "virtual", "--json"]
    command += ["--set", "workload.agents=24", "--runs", str(tmp_path)]
    taken: list[list[float]] = []
    data = virtual._World.data

    def noted(world: virtual._World, wall_s: float) -> object:
        run = data(world, wall_s)
        taken.append([sample.at_monotonic_s for sample in run.samples.samples])
        return run

    monkeypatch.setattr(virtual._World, "data", noted)
    assert main(command) == 0
    monkeypatch.setattr(virtual, "MOST_SAMPLES", 8)
    assert main(command) == 0
    many, few = taken
    assert len(many) > 16 > 9 >= len(few)
    assert set(few) < set(many) and few[0] == 0 and few[-1] == many[-1]
    # Counters at the end are the same, and so is what is told of the whole run.
    first, second = (
        json.loads(text) for text in capsys.readouterr().out.replace("}\n{", "}\0{").split("\0")
    )
    for result in (first, second):
        assert result["policies"]["dualpath"]["completed_turns"] == 48
    assert first["policies"]["dualpath"]["bytes"] == second["policies"]["dualpath"]["bytes"]

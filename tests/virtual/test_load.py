"""Loads of any size in virtual time: trajectories, arrivals, and runs that end by time."""

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.cli.main import main

FILE = Path(__file__).parents[2] / "topologies" / "replay.yaml"
WHOLE = ("turns=null", "start=null")


def command(runs: Path, verb: str, *words: str) -> list[str]:
    """Words with `=` are keys, of the workload unless they name their section; others options."""
    settings = [word for word in words if "=" in word]
    options = [word for word in words if "=" not in word]
    found = [verb, str(FILE), "--world", "virtual", "--runs", str(runs), "--json", *options]
    keys = [word if "." in word.split("=")[0] else f"workload.{word}" for word in settings]
    return [*found, *(part for key in keys for part in ("--set", key))]


def played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """The result of `dualpath`, after what holds of every run; and the verdict's causes."""
    assert main(command(tmp_path, "run", *words)) == code
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"]["functional"] == "passed", result["verdict"]
    policy = result["policies"]["dualpath"]
    assert policy["failed_turns"] == 0
    assert policy["tokens_checked"] == policy["tokens_equal"] > 0
    for line in policy["ledger"]:
        assert line["counted_bytes"] == line["expected_bytes"], line["port"]
    return policy, result["verdict"]["causes"]


def arrived(runs: Path) -> list[dict[str, Any]]:
    """Every turn's submission, by the run's log."""
    (log,) = runs.glob("*/*/events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [event for event in events if event["event"] == "arrived"]


@pytest.mark.parametrize(("words", "turns"), [
    (("agents=60", "trajectories=20", "turns=3"), 60 * 3),
    (("agents=40", "trajectories=20", "turns=3", "start=first"), 40 * 3 + 20),
    (("agents=30", "set=weka-coding", "trajectories=10", "turns=3"), 30 * 3),
])  # fmt: skip
def test_runs_of_trajectories_are_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], turns: int
) -> None:
    policy, _ = played(tmp_path, capsys, *words)
    assert (policy["completed_turns"], policy["turns_not_begun"]) == (turns, 0)
    assert policy["persisted_then_hit_blocks"] > 0


def test_agents_that_start_with_nothing_only_hit_what_they_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, _ = played(tmp_path, capsys, "agents=12", "turns=2", "start=first", "trajectories=6")
    hits = [turn["hit_tokens"] for turn in arrived(tmp_path)]
    assert hits.count(0) == 12
    assert sum(hits) == 64 * policy["persisted_then_hit_blocks"] > 0


def test_below_capacity_as_many_turns_are_served_as_arrive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("agents=300", "turns=2", "--aps", "5", "--require", "timing")
    policy, causes = played(tmp_path, capsys, *words)
    assert causes == []
    begin_s, end_s = policy["window_s"]
    assert 0 < begin_s < end_s
    assert policy["throughput_turns_per_s"] == pytest.approx(2 * 5, rel=0.2)
    assert policy["bound"]["binds"] == "arrivals"
    assert policy["throughput_turns_per_s"] <= policy["bound"]["turns_per_s"]
    assert policy["ttft_s"]["mean"] < 1


def test_few_arrivals_are_no_steady_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Idle times beyond the deadline are nobody's fault.
    words = ("agents=4", "turns=2", "engine.deadline_s=30", "--aps", "0.02", "--require", "timing")
    policy, causes = played(tmp_path, capsys, *words, code=3)
    assert policy["completed_turns"] == 8 and policy["window_s"][0] == 0
    assert causes[0].startswith("dualpath: no steady state")


@pytest.mark.parametrize("aps", [(), ("--aps", "2")])
def test_a_run_ends_by_time_and_what_it_left_has_not_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], aps: tuple[str, ...]
) -> None:
    policy, _ = played(tmp_path, capsys, "agents=40", "window_s=20", *WHOLE, *aps)
    assert policy["completed_turns"] == len(arrived(tmp_path)) > 40
    assert policy["turns_not_begun"] > 1000
    assert policy["window_s"][1] <= 20
    assert max(turn["at_s"] for turn in arrived(tmp_path)) < 20


@pytest.mark.parametrize(("words", "says"), [
    (("--aps", "0"), "aps"), (("--aps", "-1"), "aps"), (("--aps", "nan"), "aps"),
    (("--aps", "inf"), "aps"), (("aps=.inf",), "aps"), (("aps=fast",), "aps"),
    (("turns=9999",), "trajectories has"), (("set=128k",), "set"),
    (("window_s=0",), "window_s"), (("window_s=-3",), "window_s"), (("window_s=.nan",), "window_s"),
    (("window_s=0.001", "--aps", "0.1"), "window_s"), (WHOLE[:1], "turns"),
])  # fmt: skip
@pytest.mark.parametrize("verb", ["run", "compare"])
def test_bad_loads_are_one_line_and_nothing_is_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, words: tuple[str, ...], says: str
) -> None:
    assert main(command(tmp_path / "runs", verb, *words)) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())

"""The event log: every event of every turn, once, in order of time, whatever the run's size."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engines.agents import TurnRecord
from engines.service import Decided
from scheduler.types import Decision, ReadExtent, Request, Side
from testbed.results import events
from testbed.results.rundata import RunData


def turn(number: int, submitted_s: float, **more: Any) -> TurnRecord:
    request = Request(number, agent=7, turn=1, prompt_tokens=100, hit_tokens=64, generate_tokens=3)
    return TurnRecord(request, number, submitted_s, **more)


def decided(number: int, at_s: float) -> Decided:
    reads = (ReadExtent(Side.DE, 0, 1),)
    return Decided(at_s, Decision(number, number, "pe0/1", "de0/2", reads))


def written(run: Any, path: Path) -> list[dict[str, Any]]:
    events.write_events(cast(RunData, run), path)
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_of(turns: list[TurnRecord], decisions: list[Decided]) -> Any:
    return SimpleNamespace(
        turns=turns,
        accounts={"sched": SimpleNamespace(decided=decisions)},
        decisions={entry.decision.request_id: entry.decision for entry in decisions},
    )


def test_a_turns_events_say_what_happened_to_it(tmp_path: Path) -> None:
    whole = turn(1, 0.5, first_token_s=1.5, decode_start_s=2.0, done_s=3.25, generated=b"\x01\xff")
    failed = turn(2, 0.5, reason="timeout")
    found = written(run_of([whole, failed], [decided(1, 0.5)]), tmp_path / "events.jsonl")
    assert [(line["at_s"], line["request"], line["event"]) for line in found] == [
        (0.5, 1, "arrived"),
        (0.5, 1, "decided"),
        (0.5, 2, "arrived"),
        (0.5, 2, "failed"),
        (1.5, 1, "first_token"),
        (2.0, 1, "decode"),
        (3.25, 1, "done"),
    ]
    assert found[0] == {
        "at_s": 0.5, "event": "arrived", "request": 1, "agent": 7, "turn": 1,
        "prompt_tokens": 100, "hit_tokens": 64, "generate_tokens": 3,
    }  # fmt: skip
    assert found[1]["reads"] == [["de", 0, 1]] and found[1]["pe"] == "pe0/1"
    assert found[3]["reason"] == "timeout"
    assert found[-1]["generated"] == "01ff"


def test_a_log_of_many_chunks_is_one_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [turn(number, 100.0 - number, done_s=200.0 + number % 3) for number in range(50)]
    run = run_of(turns, [decided(number, 150.0) for number in range(50)])
    whole = written(run, tmp_path / "whole.jsonl")
    monkeypatch.setattr(events, "CHUNK", 7)
    assert written(run, tmp_path / "chunks.jsonl") == whole
    order = [(line["at_s"], line["request"]) for line in whole]
    assert order == sorted(order) and len(order) == 150

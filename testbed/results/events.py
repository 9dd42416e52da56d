"""The event log of a run: one JSON object a line, in the order of target time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engines.agents import TurnRecord
from engines.service import Decided
from testbed.errors import InputError
from testbed.jsontext import decode
from testbed.results.rundata import RunData

EVENTS = "events.jsonl"  # in each policy's folder of a run

# What can happen to a turn, in the order in which things of one moment are told.
KINDS = ("arrived", "decided", "decode", "done", "failed", "first_token")
LATER = ("decode", "done", "failed", "first_token")
MOMENT = np.dtype([("at_s", "f8"), ("request", "i8"), ("kind", "i1")])
CHUNK = 65_536  # moments that are made Python's at a time


def write_events(run: RunData, path: Path) -> None:
    """Everything that happened to every turn; the same run writes the same bytes.

    What is put in order are bare moments of 17 bytes: a large run has millions of them.
    """
    encoder = msgspec.json.Encoder()
    # In the order of the moments; a restart may have decided a request twice.
    decided = iter(
        sorted(run.accounts["sched"].decided, key=lambda one: (one.at_s, one.decision.request_id))
    )
    turns = {turn.request.id: turn for turn in run.turns}
    moments = np.fromiter(_moments(run), dtype=MOMENT)
    moments = moments[np.lexsort((moments["kind"], moments["request"], moments["at_s"]))]
    with path.open("wb") as lines:
        for begin in range(0, len(moments), CHUNK):
            for at_s, request, kind in moments[begin : begin + CHUNK].tolist():
                what = KINDS[kind]
                more = (
                    _decided(next(decided)) if what == "decided" else _of_turn(turns[request], what)
                )
                line = {"at_s": at_s, "event": what, "request": request, **more}
                lines.write(encoder.encode(line) + b"\n")


def _moments(run: RunData) -> Iterator[tuple[float, int, int]]:
    """Time, request, and the kind by its place in KINDS."""
    arrived, decided, decode, done, failed, first_token = range(len(KINDS))
    for entry in run.accounts["sched"].decided:
        yield entry.at_s, entry.decision.request_id, decided
    for turn in run.turns:
        request = turn.request.id
        yield turn.submitted_s, request, arrived
        if turn.first_token_s:
            yield turn.first_token_s, request, first_token
        if turn.decode_start_s:
            yield turn.decode_start_s, request, decode
        if turn.done_s:
            yield turn.done_s, request, done
        elif turn.reason:
            yield turn.submitted_s, request, failed


def _decided(entry: Decided) -> dict[str, Any]:
    decision = entry.decision
    reads = [[read.side.value, read.first, read.count] for read in decision.reads]
    return {
        "term": entry.term, "seq": decision.seq, "pe": decision.pe, "de": decision.de,
        "reads": reads,
    }  # fmt: skip


def _of_turn(turn: TurnRecord, what: str) -> dict[str, Any]:
    request = turn.request
    match what:
        case "arrived":
            return {
                "agent": request.agent, "turn": request.turn,
                "prompt_tokens": request.prompt_tokens, "hit_tokens": request.hit_tokens,
                "generate_tokens": request.generate_tokens,
            }  # fmt: skip
        case "done":
            return {"generated": turn.generated.hex()}
        case "failed":
            return {"reason": turn.reason}
    return {}


def later_of(path: Path, request: int) -> dict[str, float]:
    """When what follows a request's decision happened; nothing if the run did not come so far."""
    if not path.is_file():
        return {}
    # Of millions of lines few are parsed: the number is the last of a line's keys, or not.
    ours, ends = f'"request":{request},'.encode(), f'"request":{request}}}'.encode()
    found: dict[str, float] = {}
    with path.open("rb") as lines:
        for line in lines:
            if ours in line or ends in line:
                said = _moment(line, path)
                if said.event in LATER:
                    found[said.event] = said.at_s
    return found


class _Moment(msgspec.Struct):
    """Of a line of an event log, what happened and when."""

    event: str
    at_s: float


def _moment(line: bytes, log: Path) -> _Moment:
    try:
        return decode(line, _Moment)
    except msgspec.DecodeError as error:
        raise InputError(f"{log}: is no event log of a run: {error}; play it again") from error

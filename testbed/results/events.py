"""The event log of a run: one JSON object a line, in the order of target time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from testbed.results.metrics import RunData

Event = tuple[float, int, str, dict[str, Any]]  # time, request, what, and more


def write_events(run: RunData, path: Path) -> None:
    """Everything that happened to every turn; the same run writes the same bytes."""
    encoder = msgspec.json.Encoder()
    with path.open("wb") as lines:
        for at_s, request, what, more in sorted(_events(run), key=lambda event: event[:3]):
            line = {"at_s": at_s, "event": what, "request": request, **more}
            lines.write(encoder.encode(line) + b"\n")


def _events(run: RunData) -> Iterator[Event]:
    for entry in run.accounts["sched"].decided:
        decision = entry.decision
        reads = [[read.side.value, read.first, read.count] for read in decision.reads]
        more = {"seq": decision.seq, "pe": decision.pe, "de": decision.de, "reads": reads}
        yield entry.at_s, decision.request_id, "decided", more
    for turn in run.turns:
        request = turn.request
        yield turn.submitted_s, request.id, "arrived", {
            "agent": request.agent, "turn": request.turn, "prompt_tokens": request.prompt_tokens,
            "hit_tokens": request.hit_tokens, "generate_tokens": request.generate_tokens,
        }  # fmt: skip
        if turn.first_token_s:
            yield turn.first_token_s, request.id, "first_token", {}
        if turn.decode_start_s:
            yield turn.decode_start_s, request.id, "decode", {}
        if turn.done_s:
            yield turn.done_s, request.id, "done", {"generated": turn.generated.hex()}
        elif turn.reason:
            yield turn.submitted_s, request.id, "failed", {"reason": turn.reason}

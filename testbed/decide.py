"""Recorded events for any scheduler, without a cluster: what would it have decided?

Another scheduler is told what the recorded cluster said, which is not what its own would have. A
report's `seen` counts recorded decisions: it becomes the number of its own that were made by then.
"""

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from scheduler import protocol
from scheduler.protocol import Decided, Hello, Line, Ready
from scheduler.scheduler import Decides
from scheduler.types import Decision, Event, Fetch
from testbed.errors import InputError, RunFailed
from testbed.results.scheduler_log import NAME


class Step(NamedTuple):
    """An event, the line of the log that has it, and what was decided then and is now."""

    line: int
    event: Event
    recorded: tuple[Decision, ...]
    made: tuple[Decision, ...] = ()


def opening(lines: Iterator[Line]) -> Hello:
    """The log's first line; raises InputError if it is no log's."""
    first = next(lines, None)
    if not isinstance(first, Hello):
        raise InputError(f"the log does not begin with `hello`; replay a run's {NAME}")
    if first.version != protocol.VERSION:
        raise InputError(
            f"the log is of version {first.version} of the protocol, and this testbed speaks "
            f"{protocol.VERSION}; run the experiment again"
        )
    return first


def replay(lines: Iterable[Line], scheduler: Decides) -> Iterator[Step]:
    """Feed what follows the log's opening to a scheduler, event by event."""
    seen = _Seen()
    for step in steps(lines):
        made = tuple(scheduler.handle(seen.told(step)))
        seen.decided(len(step.recorded), len(made))
        yield step._replace(made=made)


def require_same(step: Step) -> None:
    """Raise RunFailed at the first decision of the event that is not the recorded one."""
    for recorded, made in zip_longest(step.recorded, step.made):
        if recorded != made:
            request = (recorded or made).request_id
            raise RunFailed(
                f"request {request} is decided differently at line {step.line} of the log "
                f"({protocol.words(step.event)}): recorded {_text(recorded)}, now {_text(made)}"
            )


class _Seen:
    """For each recorded decision, how many were made by the scheduler that is replayed."""

    def __init__(self) -> None:
        self._table = [0]
        self._made = 0

    def told(self, step: Step) -> Event:
        """The event with reports that have seen decisions of the scheduler's own."""
        event = step.event
        if not isinstance(event, Fetch):
            return event
        try:
            return replace(
                event,
                engines=tuple(replace(r, seen=self._table[r.seen]) for r in event.engines),
                nodes=tuple(replace(r, seen=self._table[r.seen]) for r in event.nodes),
            )
        except IndexError:
            raise InputError(
                f"line {step.line} of the log has seen a decision that comes later or is not "
                "there; was the log edited?"
            ) from None

    def decided(self, recorded: int, made: int) -> None:
        """So many were recorded and made at one event: the nth goes with the nth."""
        for number in range(1, recorded + 1):
            self._table.append(self._made + min(number, made))
        self._made += made


def steps(lines: Iterable[Line]) -> Iterator[Step]:
    """Each event with the decisions behind it."""
    waiting: Step | None = None
    for number, line in enumerate(lines, 2):
        match line:
            case Decided() if waiting is not None:
                yield waiting._replace(recorded=line.decisions)
                waiting = None
            case Ready() if number == 2:
                pass
            case Hello() | Ready() | Decided():
                kind = type(line).__name__.lower()
                raise InputError(f"line {number} of the log is `{kind}`, and an event is due")
            case event:
                if waiting is not None:
                    yield waiting
                waiting = Step(number, event, ())
    if waiting is not None:
        yield waiting


def _text(decision: Decision | None) -> str:
    return "nothing" if decision is None else msgspec.json.encode(decision).decode()

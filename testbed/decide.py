"""Recorded events for any scheduler, without a cluster: what would it have decided?

Another scheduler is told what the recorded cluster said, which is not what its own would have. A
report's `seen` counts recorded decisions: it becomes the number of its own that were made by then.
"""

from collections.abc import Callable, Iterable, Iterator
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


def replay(lines: Iterable[Line], make: Callable[[Hello], Decides]) -> Iterator[Step]:
    """Feed a log to a scheduler, event by event; each `hello` makes one, as a restart did.

    Raises InputError at what is no log's line.
    """
    for hello, steps in terms(lines):
        scheduler, seen = make(hello), _Seen()
        for step in steps:
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
        known = range(len(self._table))
        seen = [*(r.seen for r in event.engines), *(r.seen for r in event.nodes)]
        if not all(number in known for number in seen):
            raise InputError(
                f"line {step.line} of the log has seen a decision that comes later or is not "
                "there; was the log edited?"
            )
        return replace(
            event,
            engines=tuple(replace(r, seen=self._table[r.seen]) for r in event.engines),
            nodes=tuple(replace(r, seen=self._table[r.seen]) for r in event.nodes),
        )

    def decided(self, recorded: int, made: int) -> None:
        """So many were recorded and made at one event: the nth goes with the nth."""
        for number in range(1, recorded + 1):
            self._table.append(self._made + min(number, made))
        self._made += made


def terms(lines: Iterable[Line]) -> Iterator[tuple[Hello, Iterator[Step]]]:
    """Each `hello` of a log with the steps up to the next one, to be taken before it comes."""
    numbered = _Numbered(lines)
    if numbered.ahead is None:
        raise InputError(f"the log is empty; replay a run's {NAME}")
    while numbered.ahead is not None:
        if not isinstance(hello := numbered.take(), Hello):
            raise InputError(f"the log does not begin with `hello`; replay a run's {NAME}")
        if hello.version != protocol.VERSION:
            raise InputError(
                f"the log is of version {hello.version} of the protocol, and this testbed speaks "
                f"{protocol.VERSION}; run the experiment again"
            )
        if isinstance(numbered.ahead, Ready):
            numbered.take()
        yield hello, _steps(numbered)


def _steps(numbered: "_Numbered") -> Iterator[Step]:
    """Each event with the decisions behind it."""
    while numbered.ahead is not None and not isinstance(numbered.ahead, Hello):
        event, number = numbered.take(), numbered.number
        if isinstance(event, Hello | Ready | Decided):
            kind = type(event).__name__.lower()
            raise InputError(f"line {number} of the log is `{kind}`, and an event is due")
        decided = numbered.ahead
        if isinstance(decided, Decided):
            numbered.take()
        yield Step(number, event, decided.decisions if isinstance(decided, Decided) else ())


class _Numbered:
    """Lines with a look at the next one; `number` is that of the last line taken."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = iter(lines)
        self.number = 0
        self.ahead = next(self._lines, None)

    def take(self) -> Line:
        """The next line, which is there."""
        assert self.ahead is not None
        line, self.ahead = self.ahead, next(self._lines, None)
        self.number += 1
        return line


def _text(decision: Decision | None) -> str:
    return "nothing" if decision is None else msgspec.json.encode(decision).decode()

"""Our own scheduler as the other process: lines in, lines out."""

from collections.abc import Iterable
from typing import BinaryIO

import msgspec

from scheduler import protocol
from scheduler.errors import SchedulerError
from scheduler.lookup import lookup
from scheduler.policy import Policy
from scheduler.protocol import VERSION, Decided, Hello, Ready
from scheduler.scheduler import Scheduler
from scheduler.types import Arrived, Ended, Fetch
from testbed.errors import RunFailed
from testbed.worlds.knobs import set_by


def serve(lines: Iterable[bytes], answers: BinaryIO, policy: str) -> None:
    """Answer every line until they end.

    Raises RunFailed and SchedulerError.
    """
    scheduler: Scheduler | None = None
    for number, line in enumerate(lines, 1):
        try:
            said = protocol.decode(line)
        except msgspec.MsgspecError as error:
            raise RunFailed(f"line {number} is none of the protocol: {error}") from error
        answer: Ready | Decided
        match said:
            case Hello() if scheduler is None:
                if said.version != VERSION:
                    raise RunFailed(
                        f"version {said.version} of the protocol is spoken there, {VERSION} here"
                    )
                made = make(policy, said.knobs)
                scheduler = Scheduler(said.cluster, made)
                answer = Ready(VERSION, made.traits)
            case Arrived() | Fetch() | Ended() if scheduler is not None:
                answer = Decided(tuple(scheduler.handle(said)))
            case _:
                raise RunFailed(f"line {number} is not due there; `hello` comes first, and once")
        answers.write(protocol.encode(answer))
        answers.flush()


def make(policy: str, knobs: dict[str, float]) -> Policy:
    """A policy, with the experiment's values for those limits that it sets at all."""
    limits = lookup(policy).traits
    for knob in knobs:
        if not hasattr(limits, knob):
            raise SchedulerError(f"`hello` has a knob {knob!r}, which no policy has")
    return lookup(policy, **set_by(limits, knobs))

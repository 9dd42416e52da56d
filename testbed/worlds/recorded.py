"""The scheduler of a run, and the log of what it was told and what it decided."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engines.config import ServiceConfig
from scheduler.lookup import lookup
from scheduler.protocol import VERSION, Decided, Hello, News, Ready, encode
from scheduler.scheduler import Decides, Scheduler
from scheduler.types import Decision, Event
from testbed.results.scheduler_log import NAME, log_writer


class Recorded:
    """A scheduler whose events and decisions are written down as they come.

    An event is written before it is handled: the last line of a run that broke is what broke it.
    """

    def __init__(self, scheduler: Decides, write: Callable[[bytes], object]) -> None:
        self._scheduler = scheduler
        self._write = write
        self._news = News()

    def handle(self, event: Event) -> Sequence[Decision]:
        """What the scheduler decides."""
        self._write(encode(self._news.of(event)))
        decisions = self._scheduler.handle(event)
        if decisions:
            self._write(encode(Decided(tuple(decisions))))
        return decisions


@contextmanager
def recorded(
    role: ServiceConfig, knobs: dict[str, float], folder: Path
) -> Iterator[Callable[[], Decides]]:
    """How to make the role's scheduler, each into the one log in the run's folder."""
    with log_writer(folder / NAME) as write:

        def make() -> Decides:
            policy = lookup(role.policy, **knobs)
            write(encode(Hello(VERSION, role.cluster, role.policy, knobs)))
            write(encode(Ready(VERSION, policy.traits)))
            return Recorded(Scheduler(role.cluster, policy), write)

        yield make

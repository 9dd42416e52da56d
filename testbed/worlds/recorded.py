"""The scheduler of a run, and the log of what it was told and what it decided."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engines.config import ServiceConfig
from scheduler.errors import PolicyFailed
from scheduler.lookup import lookup
from scheduler.protocol import VERSION, Decided, Hello, News, Ready, encode
from scheduler.scheduler import Decides, Scheduler
from scheduler.types import Decision, Event
from testbed.external.scheduler import external
from testbed.results.scheduler_log import NAME, log_writer
from testbed.worlds.plan import WorldPlan


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
def recorded(role: ServiceConfig, world: WorldPlan) -> Iterator[Decides]:
    """The role's scheduler, ended with the block, and its log in the run's folder."""
    hello = Hello(VERSION, role.cluster, role.policy, world.policy_knobs)
    folder = Path(world.folder)
    with log_writer(folder / NAME) as write:
        write(encode(hello))
        if world.ready is None:
            policy = lookup(role.policy, **world.policy_knobs)
            write(encode(Ready(VERSION, policy.traits)))
            yield Recorded(Scheduler(role.cluster, policy), write)
            return
        with external(role.policy, hello, folder, world.scheduler_deadline_s) as process:
            write(encode(Ready(VERSION, process.traits)))
            if process.traits != world.ready:
                raise PolicyFailed(
                    f"the scheduler asked for {process.traits} in the run, and for {world.ready} "
                    "before it; let it answer `hello` the same each time"
                )
            yield Recorded(process, write)

"""The scheduler of a run, and the log of what it was told and what it decided."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engines.config import ServiceConfig
from scheduler.lookup import lookup
from scheduler.protocol import VERSION, Decided, Hello, News, Ready, encode
from scheduler.scheduler import Decides, Scheduler
from scheduler.types import Decision, Event
from testbed.errors import RunFailed
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
def recorded(role: ServiceConfig, world: WorldPlan) -> Iterator[Callable[[], Decides]]:
    """How to make the role's scheduler, each into the one log in the run's folder.

    A process that was made ends with the next one, or with the block.
    """
    with log_writer(Path(world.folder) / NAME) as write, ExitStack() as process:

        def make() -> Decides:
            process.close()
            return Recorded(_begin(role, world, write, process), write)

        yield make


def _begin(
    role: ServiceConfig, world: WorldPlan, write: Callable[[bytes], object], process: ExitStack
) -> Decides:
    """Make a scheduler, and write down what it and we said first."""
    hello = Hello(VERSION, role.cluster, role.policy, world.policy_knobs)
    write(encode(hello))
    if world.ready is None:
        policy = lookup(role.policy, **world.policy_knobs)
        write(encode(Ready(VERSION, policy.traits)))
        return Scheduler(role.cluster, policy)
    answered = process.enter_context(
        external(role.policy, hello, Path(world.folder), world.scheduler_deadline_s)
    )
    write(encode(Ready(VERSION, answered.traits)))
    if answered.traits != world.ready:
        raise RunFailed(
            f"the scheduler asked for {answered.traits} in the run, and for {world.ready} "
            "before it; let it answer `hello` the same each time"
        )
    return answered

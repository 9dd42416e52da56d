"""The scheduler of a run, and the log of what it was told and what it decided."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engines.config import ServiceConfig
from scheduler.errors import PolicyFailed
from scheduler.lookup import lookup
from scheduler.policy import Traits
from scheduler.protocol import VERSION, Decided, Hello, News, Ready, encode
from scheduler.scheduler import Decides, Scheduler
from scheduler.types import Decision, Event
from testbed.external.scheduler import external
from testbed.results.scheduler_log import NAME, log_writer
from testbed.worlds.plan import WorldPlan


class Recorded:
    """A scheduler whose events and decisions are written down as they come.

    It hears what is written, which leaves out the engines that report what they did last. An event
    is written before it is handled: the last line of a run that broke is what broke it.
    """

    def __init__(self, scheduler: Decides, write: Callable[[bytes], object]) -> None:
        self._scheduler = scheduler
        self._write = write
        self._news = News()

    def handle(self, event: Event) -> Sequence[Decision]:
        """What the scheduler decides."""
        said = self._news.of(event)
        self._write(encode(said))
        decisions = self._scheduler.handle(said)
        if decisions:
            self._write(encode(Decided(tuple(decisions))))
        return decisions


@contextmanager
def schedulers(role: ServiceConfig, world: WorldPlan) -> Iterator[Callable[[], Decides]]:
    """What makes the role's scheduler, and another one after a restart, with one log for all.

    A scheduler ends when the next one begins, or with the block.
    """
    hello = Hello(VERSION, role.cluster, role.policy, world.policy_knobs)
    with log_writer(Path(world.folder) / NAME) as write, ExitStack() as term:

        def make() -> Decides:
            term.close()
            write(encode(hello))
            scheduler, traits = term.enter_context(_scheduler(hello, world))
            write(encode(Ready(VERSION, traits)))
            return Recorded(scheduler, write)

        yield make


@contextmanager
def _scheduler(hello: Hello, world: WorldPlan) -> Iterator[tuple[Decides, Traits]]:
    if world.ready is None:
        policy = lookup(hello.policy, **hello.knobs)
        yield Scheduler(hello.cluster, policy), policy.traits
        return
    with external(hello.policy, hello, Path(world.folder), world.scheduler_deadline_s) as process:
        if process.traits != world.ready:
            raise PolicyFailed(
                f"the scheduler asked for {process.traits} in the run, and for {world.ready} "
                "before it; let it answer `hello` the same each time"
            )
        yield process, process.traits

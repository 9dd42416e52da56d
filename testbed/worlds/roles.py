"""What every world does with a host: hand its role the sides of the seams, and keep its account."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from engines.agents import Agents, AgentsConfig, Author
from engines.buffer import Buffer
from engines.config import (
    BufferConfig,
    DecodeConfig,
    PrefillConfig,
    ServiceConfig,
    StorageConfig,
)
from engines.decode import Decode
from engines.prefill import Prefill
from engines.seams.clock import Clock
from engines.seams.compute import Compute
from engines.seams.store import Store
from engines.seams.transport import Transport
from engines.service import Service
from engines.storage import Storage
from testbed.worlds.account import HostAccount
from testbed.worlds.guard import no_endless_decision
from testbed.worlds.plan import RoleConfig, WorldPlan
from testbed.worlds.recorded import schedulers

Waits = Callable[[], Iterable[str]]


class Sides(NamedTuple):
    """One host's ends of the seams; a role takes those that it needs.

    `meet` is told how to ask the host who waits on it for what.
    """

    clock: Clock
    transport: Transport
    author: Author
    progress: Callable[[int, int], None]
    world: WorldPlan
    store: Store | None = None
    compute: Compute | None = None
    meet: Callable[[Waits], None] = lambda waits: None


async def play_role(role: RoleConfig, sides: Sides, account: HostAccount) -> None:
    """Run a role to its end and fill in what it counted."""
    clock, transport = sides.clock, sides.transport
    match role:
        case StorageConfig():
            assert sides.store is not None
            storage = Storage(role, clock, transport, sides.store)
            sides.meet(storage.waits)
            await storage.run()
            account.counts = dict(storage.account)
        case BufferConfig():
            buffer = Buffer(role, clock, transport)
            sides.meet(buffer.waits)
            await buffer.run()
            account.counts = dict(buffer.account)
            account.cached_tokens = buffer.cached_tokens
        case PrefillConfig():
            assert sides.compute is not None
            prefill = Prefill(role, clock, transport, sides.compute)
            sides.meet(prefill.waits)
            await prefill.run()
            account.forwards, account.counts = prefill.forwards, dict(prefill.account)
            account.exchanges = prefill.exchanges
        case DecodeConfig():
            assert sides.compute is not None
            decode = Decode(role, clock, transport, sides.compute)
            sides.meet(decode.waits)
            await decode.run()
            account.counts = dict(decode.account)
            account.exchanges = decode.exchanges
        case ServiceConfig():
            with schedulers(role, sides.world) as make, no_endless_decision():
                service = Service(role, clock, transport, make)
                sides.meet(service.waits)
                await service.run()
            account.decided, account.counts = service.decided, dict(service.ended)
            account.restarts = service.restarts
        case AgentsConfig():
            agents = Agents(role, clock, transport, sides.author, sides.progress)
            await agents.run()
            account.turns = list(agents.turns.values())

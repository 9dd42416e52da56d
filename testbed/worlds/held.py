"""What the virtual world needs where its memories hold real KV (`engine.real_kv`)."""

from collections.abc import Callable, Iterator, Sequence

from engines.agents import OPENING_CHAINS, AgentPlan, Author, TurnRecord
from engines.kv import Extent, blocks, storage_of
from engines.modelled.checked import CheckedCompute, CheckedStore, CheckedTransport, CheckedWires
from engines.modelled.checked_reference import CheckedReference
from engines.modelled.decoder import Openings
from engines.modelled.fluid import FluidNetwork
from engines.modelled.regions import Regions, block_keys, digest_blocks
from engines.seams.clock import Clock
from testbed.worlds.plan import LabPlan


class HeldKv:
    """The regions of every host of a plan, and the sides of the seams that use them."""

    def __init__(self, plan: LabPlan, author: Author) -> None:
        self._world = plan.world
        self._author = author
        self._openings = Openings(author, plan.world.layout)
        self._regions = {
            host.name: Regions(host.name, plan.world.layout, host.pools) for host in plan.hosts
        }

    def wires(
        self,
        network: FluidNetwork,
        route: Callable[[str, str], tuple[str, ...]],
        latency_s: float,
        delay_s: Callable[[str, str], float] | None,
    ) -> CheckedWires:
        """The network between the regions."""
        return CheckedWires(network, route, self._world.layout, latency_s, self._regions, delay_s)

    def transport(self, host: str, wires: CheckedWires) -> CheckedTransport:
        """One host's end of it."""
        return CheckedTransport(host, wires, self._world.verify_digests)

    def compute(self, host: str, clock: Clock) -> CheckedCompute:
        """What the GPUs of a host do."""
        return CheckedCompute(self._world.layout, self._regions[host], clock)

    def store(self, host: str) -> CheckedStore:
        """A storage host's blocks: those of its share of the openings."""
        world = self._world
        store = CheckedStore(world.layout, self._regions[host])
        for opening in world.openings:
            chain = OPENING_CHAINS + opening.id
            if storage_of(chain, world.storages) == host:
                count = blocks(opening.tokens, world.layout.block_tokens)
                kv = self._openings.kv(opening.id, count * world.layout.block_tokens)
                content = self._author.opening(opening.id, opening.tokens)
                keys = block_keys(content, 0, count, world.layout)
                store.hold(Extent(chain, 0, count), kv, digest_blocks(kv, keys))
        return store

    def check_agent(
        self, agent: AgentPlan, turns: Sequence[TurnRecord]
    ) -> Iterator[tuple[int, int, bool | None]]:
        """Of each completed turn, in order: tokens checked, tokens right, and the KV's verdict."""
        reference = CheckedReference(self._author, self._world.layout, self._openings)
        return reference.check_agent(agent, turns)

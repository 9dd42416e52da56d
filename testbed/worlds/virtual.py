"""The virtual world: the same hosts in one process, on a virtual clock and fluid links.

A plan is the same as the emulated world's, at a time scale of 1: bytes and rates are those of the
emulated links, so ledgers compare byte by byte.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import anyio

from engines.agents import OPENING_CHAINS, AgentPlan, AgentsConfig, TurnRecord
from engines.config import DecodeConfig, PrefillConfig, StorageConfig
from engines.errors import VirtualDeadlock
from engines.kv import blocks, storage_of
from engines.modelled.clock import VirtualClock
from engines.modelled.compute import PacedCompute
from engines.modelled.content import PatternAuthor
from engines.modelled.fluid import KV, MODEL, FluidNetwork, Link
from engines.modelled.loop import run_virtual, virtual_loop
from engines.modelled.reference import check_agent
from engines.modelled.store import ExtentStore
from engines.modelled.transport import FluidTransport, Wires
from engines.modelled.watch import Watch
from engines.seams.compute import Compute
from engines.seams.store import Store
from scheduler.errors import DualPathError, PolicyFailed
from testbed.delays import MODELLED, NOBODY, path_delay_s
from testbed.errors import RunFailed
from testbed.fabric.wire import KV_CLASS, MODEL_CLASS
from testbed.results.rundata import RunData
from testbed.results.utilisation import capacities
from testbed.worlds.account import HostAccount, TurnTruth
from testbed.worlds.held import HeldKv
from testbed.worlds.plan import AGENTS, SCHEDULER, HostPlan, LabPlan, WirePlan
from testbed.worlds.roles import Sides, play_role
from testbed.worlds.samples import PortBytes, Sample, Samples
from topologies.shape import Port

# A message on the management network, and what both ends' processes do with it (fitted).
MESSAGE_LATENCY_S = 200e-6

# Each holds every port: two thousand of them are 170 MB in a cluster of 144 nodes.
MOST_SAMPLES = 2000

Progress = Callable[[str, int, int], None]  # phase, turns ended, turns planned


def run(plan: LabPlan, progress: Progress) -> RunData:
    """Play the plan; RunFailed says who waits for what if it cannot come to its end."""
    world = _World(plan, progress)
    began_s = time.perf_counter()
    with _rare_collections():
        try:
            run_virtual(world.play, world.loop)
        except DualPathError as error:
            raise RunFailed(_told(error)) from error
        except BaseExceptionGroup as errors:
            ours, others = errors.split(DualPathError)
            if ours is None or others is not None:
                raise
            first = next(_leaves(ours))
            raise RunFailed(_told(first)) from first
        return world.data(time.perf_counter() - began_s)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Tasks and messages come and go by the million and hold few cycles: collect rarely.

    What a world leaves is as large, and is looked through only when the next one begins.
    """
    before = gc.get_threshold()
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.freeze()


def _told(error: DualPathError) -> str:
    """What ended the world, and whether that is the policy's doing."""
    if isinstance(error, PolicyFailed):
        return str(error)
    if isinstance(error, VirtualDeadlock) and SCHEDULER in error.hosts <= {SCHEDULER, AGENTS}:
        return f"the policy leaves turns undecided, and every engine is idle: {error}"
    return f"the virtual world stopped: {error}"


def _leaves(group: BaseExceptionGroup[DualPathError]) -> Iterator[DualPathError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class _World:
    """All hosts of one run, and what is measured of them."""

    def __init__(self, plan: LabPlan, progress: Progress) -> None:
        self._plan = plan
        self._progress = progress
        self.loop = virtual_loop()
        self.clock = VirtualClock(self.loop)
        wires = plan.wires
        self._shape = wires.shape
        self._network = FluidNetwork(self.loop, _capacities(wires), wires.qos)
        self._ports = [
            (owner, nic, self._link(owner, nic, "rx"), self._link(owner, nic, "tx"))
            for owner, nic in self._shape.data_links()
        ]
        self._kv = HeldKv(plan, self._author()) if plan.world.real_kv else None
        self._wires, self._transports = self._build_wires()
        self._watch = Watch(self.clock, self._wires)
        self._watch.meet(SCHEDULER, lambda: ())  # first: of many who wait not all are named
        self._accounts = {
            host.name: HostAccount(host.name, type(host.role).__name__, 0.0, 0.0, 0)
            for host in plan.hosts
        }
        self._samples: list[Sample] = []
        self._end_s = 0.0

    async def play(self) -> None:
        """Every host to its end, with the sampler and the watch over deadlines beside."""
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._sample)
            beside.start_soon(self._watch.run)
            async with anyio.create_task_group() as hosts:
                for host in self._plan.hosts:
                    sides = self._sides(host)
                    hosts.start_soon(play_role, host.role, sides, self._accounts[host.name])
            beside.cancel_scope.cancel()
            self._samples.append(self._look())
            self._end_s = self.clock.now_s()

    def data(self, wall_s: float) -> RunData:
        """What the run left, in the words of the emulated world's."""
        by = MODELLED if self._plan.wires.delays_s else NOBODY
        samples = Samples(0.0, self._samples, self._class_bytes(), 0.0, delay_by=by)
        return RunData(self._plan, self._accounts, samples, self._truths(), wall_s, self._end_s)

    def _build_wires(self) -> tuple[Wires, dict[str, FluidTransport]]:
        hosts = [host.name for host in self._plan.hosts]
        delays = self._plan.wires.delays_s
        delay = partial(path_delay_s, self._shape, delays) if delays else None
        if self._kv is not None:
            checked = self._kv.wires(self._network, self._route, MESSAGE_LATENCY_S, delay)
            return checked, {host: self._kv.transport(host, checked) for host in hosts}
        layout = self._plan.world.layout
        wires = Wires(self._network, self._route, layout, MESSAGE_LATENCY_S, delay)
        return wires, {host: FluidTransport(host, wires) for host in hosts}

    def _route(self, sender: str, peer: str) -> tuple[str, ...]:
        return tuple(":".join(port) for port in self._shape.path(sender, peer))

    def _link(self, owner: str, nic: str, way: str) -> Link:
        return self._network.links[":".join(Port(owner, nic, way))]

    def _sides(self, host: HostPlan) -> Sides:
        world = self._plan.world
        compute = None
        if isinstance(host.role, PrefillConfig | DecodeConfig):
            compute = self._compute(host.name)
        store = self._filled_store(host.name) if isinstance(host.role, StorageConfig) else None
        return Sides(
            self.clock.on(host.name),
            self._transports[host.name],
            self._author(),
            lambda ended, total: self._progress("running", ended, total),
            world,
            store,
            compute,
            lambda waits: self._watch.meet(host.name, waits),
        )

    def _author(self) -> PatternAuthor:
        world = self._plan.world
        return PatternAuthor(world.author_seed, world.layout.token_scale)

    def _compute(self, name: str) -> Compute:
        if self._kv is not None:
            return self._kv.compute(name, self.clock)
        layout = self._plan.world.layout
        return PacedCompute(layout.layers, layout.token_scale, self.clock)

    def _filled_store(self, name: str) -> Store:
        if self._kv is not None:
            return self._kv.store(name)
        world, store = self._plan.world, ExtentStore()
        for opening in world.openings:
            chain = OPENING_CHAINS + opening.id
            if storage_of(chain, world.storages) == name:
                store.hold(chain, 0, blocks(opening.tokens, world.layout.block_tokens))
        return store

    async def _sample(self) -> None:
        """On a grid, and on one twice as coarse each time that there are too many samples."""
        period_s = self._plan.sample_period_s
        while True:
            self._samples.append(self._look())
            if len(self._samples) == MOST_SAMPLES:
                del self._samples[1::2]
                period_s *= 2
            await self.clock.beat_until_s(len(self._samples) * period_s)

    def _look(self) -> Sample:
        now_s = self.clock.now_s()
        ports = tuple(
            PortBytes(owner, nic, _carried(rx, now_s), _carried(tx, now_s))
            for owner, nic, rx, tx in self._ports
        )
        return Sample(now_s, ports, 0.0, 0.0, 0.0)

    def _class_bytes(self) -> dict[str, dict[str, int]]:
        return {
            f"{owner}:{nic}{mark}": {
                MODEL_CLASS: round(link.done_bytes[MODEL]),
                KV_CLASS: round(link.done_bytes[KV]),
            }
            for owner, nic, rx, tx in self._ports
            for mark, link in ((">", tx), ("<", rx))
        }

    def _truths(self) -> list[TurnTruth]:
        (config,) = (h.role for h in self._plan.hosts if isinstance(h.role, AgentsConfig))
        turns = {turn.request.id: turn for turn in self._accounts["agents"].turns}
        by_agent: dict[int, list[int]] = {}
        for number, turn in sorted(turns.items()):
            if not turn.reason:
                by_agent.setdefault(turn.request.agent, []).append(number)
        return [
            TurnTruth(number, *verdict)
            for agent in config.agents
            if (numbers := by_agent.get(agent.agent))
            for number, verdict in zip(
                numbers, self._check_agent(agent, [turns[n] for n in numbers]), strict=True
            )
        ]

    def _check_agent(
        self, agent: AgentPlan, turns: list[TurnRecord]
    ) -> Iterator[tuple[int, int, bool | None]]:
        if self._kv is not None:
            return self._kv.check_agent(agent, turns)
        scale = self._plan.world.layout.token_scale
        found = check_agent(self._author(), scale, agent, turns)
        return ((checked, equal, None) for checked, equal in found)


def _carried(link: Link, now_s: float) -> int:
    carried = link.carried_bytes(MODEL, now_s) + link.carried_bytes(KV, now_s)
    return round(carried) + link.frame_bytes


def _capacities(wires: WirePlan) -> dict[str, float]:
    """Bytes/s of both directions of every data link, by name."""
    return {
        ":".join(Port(owner, nic, way)): rate
        for (owner, nic), rate in capacities(wires).items()
        for way in ("tx", "rx")
    }

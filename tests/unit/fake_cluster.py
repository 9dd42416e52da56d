"""A cluster of one PE node, one DE node and storage, on the fakes."""

from collections.abc import Awaitable, Callable

import anyio
import msgspec
from fakes import (
    BLOCK,
    EXCHANGE,
    KV,
    FakeClock,
    FakeCompute,
    FakeStore,
    FakeTransport,
    Network,
    generated_by,
    play,
    text,
)

from engines.buffer import Buffer
from engines.config import (
    BufferConfig,
    DecodeConfig,
    GpuTime,
    GroupConfig,
    PrefillConfig,
    StorageConfig,
)
from engines.decode import Decode
from engines.kv import Extent, storage_of
from engines.messages import Assign, Drain, Report, Submit, TurnDone, TurnFailed
from engines.prefill import Prefill
from engines.storage import Storage
from scheduler.policy import Traits
from scheduler.types import Decision, ReadExtent, Request

DEADLINE_S = 100.0
LAYERWISE = Traits(layerwise=True)


class Setup(msgspec.Struct, frozen=True):
    """What a test may want otherwise; memories in tokens."""

    lanes: int = 1
    storages: int = 1
    dram_tokens: int = 400
    dram_tokens_per_s: float = 1e9
    cache_tokens: int = 0
    pool_tokens: int = 400
    parked_tokens: int = 0
    lane_tokens: int = 400
    stage_tokens: int = 400
    reads_in_flight: int = 10
    read_ahead: int | None = None
    traits: Traits = LAYERWISE
    gpu: GpuTime = GpuTime(0.01, 0.0)
    tpot_s: float = 0.01
    kv_samples: float = 0.0
    token_layer_s: float = 0.001
    pe_peers: tuple[str, ...] = ()
    de_peers: tuple[str, ...] = ()


class Cluster:
    """One PE node, one DE node and storage; tests play the scheduler and the client."""

    def __init__(self, setup: Setup) -> None:
        network = self.network = Network(setup.token_layer_s)
        self.setup = setup
        clock = FakeClock()
        names = [f"store{n}" for n in range(setup.storages)]
        self.storages = tuple(names)
        self.stores = {name: FakeStore(name, network) for name in names}
        self.computes = {name: FakeCompute(name, network) for name in ("pe0-gpu", "de0-gpu")}
        self.storage = {
            name: Storage(
                StorageConfig(name, KV, setup.stage_tokens, DEADLINE_S),
                clock, FakeTransport(name, network), self.stores[name],
            )
            for name in names
        }  # fmt: skip
        self.buffers = {
            node: Buffer(self._buffer(node), clock, FakeTransport(f"{node}-buf", network))
            for node in ("pe0", "de0")
        }
        self.prefill = Prefill(
            self._prefill(), clock, FakeTransport("pe0-gpu", network), self.computes["pe0-gpu"]
        )
        self.decode = Decode(
            self._decode(), clock, FakeTransport("de0-gpu", network), self.computes["de0-gpu"]
        )
        self.parts = [*self.storage.values(), *self.buffers.values(), self.prefill, self.decode]
        self.hosts = (*names, "pe0-buf", "de0-buf", "pe0-gpu", "de0-gpu")
        self.ends: dict[int, TurnDone | TurnFailed] = {}
        self._decisions = 0

    def _lanes(self, node: str) -> tuple[str, ...]:
        return tuple(f"{node}/{lane}" for lane in range(self.setup.lanes))

    def _engine_hosts(self) -> dict[str, str]:
        lanes = self._lanes("pe0") + self._lanes("de0")
        return {lane: f"{lane.split('/')[0]}-gpu" for lane in lanes}

    def _group(self, node: str) -> GroupConfig:
        gpu = f"{node}-gpu"
        peers = self.setup.pe_peers if node == "pe0" else self.setup.de_peers
        members = (gpu, *peers, f"{node}-buf")
        return GroupConfig(node, gpu, (gpu, *peers), members, "sched", 0.5, 0.0, EXCHANGE)

    def _buffer(self, node: str) -> BufferConfig:
        setup, host = self.setup, f"{node}-buf"
        others = ("pe0-buf", "de0-buf", "pe0-gpu", "de0-gpu", "sched", "agents")
        return BufferConfig(
            host, node, node[:2], self._group(node), KV, setup.dram_tokens,
            setup.dram_tokens_per_s, setup.reads_in_flight, setup.read_ahead, self.storages,
            800 if node == "de0" else 0, 800, self._engine_hosts(),
            tuple(name for name in others if name != host), DEADLINE_S, setup.cache_tokens,
        )  # fmt: skip

    def _prefill(self) -> PrefillConfig:
        setup, buffers = self.setup, {"pe0": "pe0-buf", "de0": "de0-buf"}
        return PrefillConfig(
            "pe0-gpu", self._lanes("pe0"), self._group("pe0"), KV, setup.traits, setup.gpu,
            setup.pool_tokens, buffers, "agents", DEADLINE_S,
        )  # fmt: skip

    def _decode(self) -> DecodeConfig:
        setup = self.setup
        return DecodeConfig(
            "de0-gpu", "de0-buf", self._lanes("de0"), self._group("de0"), KV, setup.lane_tokens,
            setup.parked_tokens, setup.tpot_s, 4, 0, 80, setup.kv_samples, "agents", "sched",
            DEADLINE_S,
        )  # fmt: skip

    def turn(self, number: int, prompt: int, hit: int, generate: int) -> Submit:
        """A turn whose hits storage holds, on a chain of their own."""
        content, chain = text(number, prompt), 1000 + number
        count = hit // BLOCK
        self.store_of(chain).hold(chain, content, 0, count)
        context = (Extent(chain, 0, count),) if count else ()
        return Submit(Request(number, 0, 0, prompt, hit, generate, context, number), content)

    def store_of(self, chain: int) -> FakeStore:
        return self.stores[storage_of(chain, self.storages)]

    async def assign(self, turn: Submit, *reads: ReadExtent, lane: int = 0) -> None:
        """Tell everybody on the turn, as the scheduler's host does."""
        self._decisions += 1
        decision = Decision(
            self._decisions, turn.request.id, f"pe0/{lane}", f"de0/{lane}", tuple(reads)
        )
        for host in ("pe0-gpu", "de0-gpu", "de0-buf"):
            FakeTransport("sched", self.network).post(host, Assign(decision, turn))
        if any(read.side == "pe" for read in reads):
            FakeTransport("sched", self.network).post("pe0-buf", Assign(decision, turn))

    async def end_of(self, *requests: int) -> None:
        """Wait until the client knows how these turns ended."""
        while not set(requests) <= set(self.ends):
            message = (await self.network.next("agents")).message
            if isinstance(message, TurnDone | TurnFailed):
                self.ends.setdefault(message.request, message)

    def generated(self, turn: Submit) -> bytes:
        """What a turn generated; fails unless it is done."""
        end = self.ends[turn.request.id]
        assert isinstance(end, TurnDone), end
        return end.content

    def right(self, turn: Submit) -> bool:
        """Whether a turn is done and generated what it should."""
        request = turn.request
        wanted = generated_by(turn.content, request.prompt_tokens, request.generate_tokens)
        return self.generated(turn) == wanted

    def reports(self, group: str) -> list[Report]:
        """What a group's leader told the scheduler."""
        sent = [s.message for s in self.network.messages(Report) if s.peer == "sched"]
        return [report for report in sent if isinstance(report, Report) and report.group == group]

    def nothing_held(self) -> bool:
        """No slot of any memory is taken."""
        setup = self.setup
        arenas = [
            *((buffer._dram, setup.dram_tokens) for buffer in self.buffers.values()),
            *((arena, 800) for b in self.buffers.values() for arena in b._persister.inbox.values()),
            *((storage._stage, setup.stage_tokens) for storage in self.storage.values()),
            *((lane.hbm, setup.lane_tokens) for lane in self.decode._lanes.values()),
            (self.prefill._hbm, setup.pool_tokens),
            (self.decode._outbox, 80),
        ]
        return all(arena.free_tokens == capacity for arena, capacity in arenas)


def with_cluster(test: Callable[[Cluster], Awaitable[None]], setup: Setup | None = None) -> Cluster:
    """Run a test beside a running cluster, then drain it; the cluster must come down."""
    found: list[Cluster] = []

    async def whole() -> None:
        cluster = Cluster(setup or Setup())
        found.append(cluster)
        async with anyio.create_task_group() as tasks:
            for part in cluster.parts:
                tasks.start_soon(part.run)
            await test(cluster)
            for host in cluster.hosts:
                FakeTransport("agents", cluster.network).post(host, Drain())

    play(whole)
    return found[0]

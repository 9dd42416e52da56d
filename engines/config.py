"""What each role is told at its start, all in target units; `testbed/worlds` writes it."""

import msgspec

from scheduler.policy import Traits
from scheduler.types import ClusterSpec, Decision, Side


class KvShape(msgspec.Struct, frozen=True):
    """How KV is cut: layers, tokens a block, and tokens a decode quantum stands for."""

    layers: int
    block_tokens: int
    quantum_tokens: int


class ExchangeConfig(msgspec.Struct, frozen=True):
    """The two exchanges of a layer, as they cross the network between the hosts of a group.

    A token weighs `dispatch_bytes` on its way to each peer, before the experts, and
    `combine_bytes` on its way back; a message has at least `least_bytes`. On an idle network one
    takes `bytes_per_s` of a host's link, and `idle_s` besides: that is part of a layer's time.
    """

    dispatch_bytes: float
    combine_bytes: float
    least_bytes: int
    bytes_per_s: float
    idle_s: float


class GroupConfig(msgspec.Struct, frozen=True):
    """An engine group: its leader pulls work for all; members report to the leader.

    `engines` are the hosts that compute in lockstep, `members` all hosts that report, once in
    `period_s` and `phase_s` after its beginning.
    """

    name: str
    leader: str
    engines: tuple[str, ...]
    members: tuple[str, ...]
    scheduler: str
    period_s: float
    phase_s: float
    exchange: ExchangeConfig


class GpuTime(msgspec.Struct, frozen=True):
    """Time of one GPU: `appended x (per_token_s + per_pair_s x (cached + appended / 2))`.

    Called, it gives the attention's part, which the request's own GPU computes: all but
    `expert_per_token_s`, the experts' part, which all GPUs of the group compute together.
    """

    per_token_s: float
    per_pair_s: float
    expert_per_token_s: float = 0.0

    def __call__(self, cached_tokens: int, compute_tokens: int) -> float:
        """Seconds of attention on one GPU over all layers."""
        context = cached_tokens + compute_tokens / 2
        own_s = self.per_token_s - self.expert_per_token_s
        return compute_tokens * (own_s + self.per_pair_s * context)


class PrefillConfig(msgspec.Struct, frozen=True, tag="prefill"):
    """A host of prefill GPUs: one lane each; `pool_tokens` of HBM hold KV during a prefill."""

    host: str
    lanes: tuple[str, ...]
    group: GroupConfig
    kv: KvShape
    traits: Traits
    gpu: GpuTime
    pool_tokens: int
    buffers: dict[str, str]
    client: str
    deadline_s: float


class DecodeConfig(msgspec.Struct, frozen=True, tag="decode"):
    """A host of decode GPUs: `lane_tokens` of HBM each, `parked_tokens` of DRAM before it.

    Blocks leave through `persist_tokens` of the buffer's region, from `persist_base` on.
    `kv_samples` is the share of turns whose KV is fingerprinted at decode start.
    """

    host: str
    buffer: str
    lanes: tuple[str, ...]
    group: GroupConfig
    kv: KvShape
    lane_tokens: int
    parked_tokens: int
    tpot_s: float
    phases: int
    persist_base: int
    persist_tokens: int
    kv_samples: float
    client: str
    scheduler: str
    deadline_s: float


class BufferConfig(msgspec.Struct, frozen=True, tag="buffer"):
    """A node's DRAM buffer and storage NIC; `inbox_*` is its part of each storage host's inbox.

    `dram_tokens_per_s` is the memory's bandwidth, reads and writes summed; `cache_tokens` of it
    keep blocks for later turns, beside the buffer's `dram_tokens`.
    """

    host: str
    node: str
    side: str
    group: GroupConfig
    kv: KvShape
    dram_tokens: int
    dram_tokens_per_s: float
    reads_in_flight: int
    read_ahead: int | None
    storages: tuple[str, ...]
    inbox_base: int
    inbox_tokens: int
    engine_hosts: dict[str, str]
    everyone: tuple[str, ...]
    deadline_s: float
    cache_tokens: int = 0


class StorageConfig(msgspec.Struct, frozen=True, tag="storage"):
    """A storage host: `stage_tokens` of memory for reads under way."""

    host: str
    kv: KvShape
    stage_tokens: int
    deadline_s: float


class ServiceConfig(msgspec.Struct, frozen=True, tag="service"):
    """The scheduler's host: which hosts stand behind engines and nodes.

    At each of `restarts_s` target seconds the scheduler loses all that it knows.
    """

    host: str
    cluster: ClusterSpec
    policy: str
    engine_hosts: dict[str, str]
    buffers: dict[str, str]
    client: str = "agents"
    restarts_s: tuple[float, ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host that can be assigned a turn, once."""
        return tuple(dict.fromkeys((*self.engine_hosts.values(), *self.buffers.values())))

    def hosts_of(self, decision: Decision) -> list[str]:
        """Both engines and every buffer that has a part in a turn."""
        hosts = [
            self.engine_hosts[decision.pe],
            self.engine_hosts[decision.de],
            self.buffers[decision.de.split("/")[0]],
        ]
        if any(read.side is Side.PE for read in decision.reads):
            hosts.append(self.buffers[decision.pe.split("/")[0]])
        return hosts

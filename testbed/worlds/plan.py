"""What the supervisor hands to the lab: hosts, what each of them plays, and the wires."""

import msgspec

from engines.agents import AgentsConfig
from engines.config import (
    BufferConfig,
    DecodeConfig,
    PrefillConfig,
    ServiceConfig,
    StorageConfig,
)
from engines.layout import DecoderShape, KvLayout
from scheduler.policy import Traits
from testbed.fabric.rates import MIN_BPS, LinkRates, link_rates
from topologies.shape import ClusterShape

NAMESPACES, LOOPBACK = "namespaces", "loopback"  # what the emulated world's network is made of
NO_SAMPLES_S = 86_400.0  # a period beyond every run
SCHEDULER, AGENTS = "sched", "agents"  # hosts that every cluster has one of
WAITED = "waited: "  # begins the line of a host's log with what it lacked when it failed

RoleConfig = (
    StorageConfig | BufferConfig | PrefillConfig | DecodeConfig | ServiceConfig | AgentsConfig
)


class Opening(msgspec.Struct, frozen=True):
    """A shared beginning of contexts, in real tokens, that storage holds before the run."""

    id: int
    tokens: int


class HostPlan(msgspec.Struct, frozen=True):
    """One host: its role, and its registered regions in real tokens."""

    role: RoleConfig
    pools: dict[str, int]

    @property
    def name(self) -> str:
        """The Mininet host's name."""
        return self.role.host


class WorldPlan(msgspec.Struct, frozen=True):
    """What every host must know of the emulated world; nothing of it reaches the engines.

    `ready` is what a scheduler in another process said before the run, None if there is none.
    """

    run_id: int
    folder: str
    cache: str
    time_scale: float
    layout: KvLayout
    shape: DecoderShape
    fingerprint: str
    padded_rows: int
    author_seed: int
    openings: tuple[Opening, ...]
    storages: tuple[str, ...]
    verify_digests: bool
    policy_knobs: dict[str, float]
    scheduler_deadline_s: float
    ready: Traits | None = None
    real_kv: bool = False


class WirePlan(msgspec.Struct, frozen=True):
    """The network: a topology's shape, payload rates in emulated bit/s, and classes on or off.

    `delays_s` are one-way delays in target seconds of links, by `owner:nic`; others have none.
    One of them takes `time_scale` real ones.
    """

    prefill_nodes: int
    decode_nodes: int
    gpus_per_node: int
    folded: bool
    storage_hosts: int
    qos: bool
    snic_bps: float
    cnic_bps: float
    node_bps: float
    storage_bps: float
    snic_overrides_bps: dict[str, float]
    delays_s: dict[str, float] = {}
    time_scale: float = 1.0

    @property
    def shape(self) -> ClusterShape:
        """The hosts and links that it is made of."""
        return ClusterShape(
            self.prefill_nodes,
            self.decode_nodes,
            self.gpus_per_node,
            self.folded,
            self.storage_hosts,
        )

    def rates(self, least_bps: float = MIN_BPS) -> LinkRates:
        """Payload rate of every data link; InputError for one below `least_bps`."""
        return link_rates(
            self.shape,
            snic_bps=self.snic_bps,
            cnic_bps=self.cnic_bps,
            pcie_bps=self.node_bps,
            uplink_bps=self.node_bps,
            storage_bps=self.storage_bps,
            overrides={(host, "snic"): bps for host, bps in self.snic_overrides_bps.items()},
            least_bps=least_bps,
        )


class LabPlan(msgspec.Struct, frozen=True):
    """Everything the lab needs; written to the run's folder as `plan.msgpack`.

    `fabric` says what the network is made of: namespaces with shaped links, or loopback.
    """

    world: WorldPlan
    wires: WirePlan
    hosts: tuple[HostPlan, ...]
    sample_period_s: float
    start_deadline_s: float
    fabric: str = NAMESPACES


def on_loopback(plan: LabPlan) -> LabPlan:
    """The same for links without shape: nothing is counted there before the end."""
    return msgspec.structs.replace(plan, fabric=LOOPBACK, sample_period_s=NO_SAMPLES_S)


class HostStart(msgspec.Struct, frozen=True, tag="host"):
    """What the forkserver is told with each new host process.

    `delays_s` are those of the host's ways to peers that its transport has to make, in target
    seconds: none, if the network makes them.
    """

    host: HostPlan
    world: WorldPlan
    directory: dict[str, dict[str, str]]
    own_network: bool = True  # whose counters are the host's alone
    delays_s: dict[str, float] = {}


class TruthStart(msgspec.Struct, frozen=True, tag="truth"):
    """Check part `share` of `shares` of all agents against the reference."""

    folder: str
    share: int
    shares: int

"""What a lab of `scripts/bench fabric` is asked to do, and what it answers."""

import msgspec

# What a window may lose to others and still count. Foreign CPU is judged as a run's is (5 % of two
# cores); a link that is shaped to 1 ms of burst feels every 10 ms that a hypervisor takes.
FOREIGN_CPUS = 0.1
STOLEN_CPUS = 0.01


class Bulk(msgspec.Struct, frozen=True, tag="bulk"):
    """Flows of KV into host h0, all over its one NIC, from as many hosts as there are flows.

    `peer` is "ours", "iperf3" or "nixl"; `bps` the payload rate of every NIC, None unshaped.
    """

    peer: str
    bps: float | None
    flows: int = 1
    piece_bytes: int = 1 << 20
    seconds: float = 2.0


class Others(msgspec.Struct, frozen=True):
    """CPUs that other programs used in a window, and CPUs that a hypervisor took away in it."""

    foreign_cpus: float = 0.0
    stolen_cpus: float = 0.0

    @property
    def disturb(self) -> bool:
        """Whether what was measured beside them is worth another try."""
        return self.foreign_cpus > FOREIGN_CPUS or self.stolen_cpus > STOLEN_CPUS

    @property
    def cpus(self) -> float:
        """All that they took."""
        return self.foreign_cpus + self.stolen_cpus


class BulkResult(msgspec.Struct, frozen=True, tag=True):
    """Payload per second that h0's TCP delivered, CPU of all processes, and h0's NIC.

    `nic_share` is what the NIC counted of payload, over what TCP delivered. `repeats` windows
    came before this one, in which others disturbed.
    """

    goodput_bps: float
    cpu_s_per_gb: float
    nic_share: float
    others: Others = Others()
    repeats: int = 0


class Latency(msgspec.Struct, frozen=True, tag="latency"):
    """4 KB MODEL messages from h1 to h0 and back, one at a time, `every_s` apart.

    KV saturates h0's NIC meanwhile: from h1 itself, from h1 and h2, or (0) from nobody.
    """

    bps: float
    kv_senders: int
    every_s: float
    seconds: float


class LatencyResult(msgspec.Struct, frozen=True, tag=True):
    """Round trips in seconds, sorted, and KV's payload per second; the rest as of BulkResult.

    `networks_s`, sorted as well: from a post to the kernel's stamp on arrival, both ways together.
    """

    round_trips_s: list[float]
    kv_bps: float
    others: Others = Others()
    repeats: int = 0
    networks_s: list[float] = []


class Lab(msgspec.Struct, frozen=True):
    """One private network of `hosts` and the jobs on it, one after the other."""

    hosts: int
    qos: bool
    jobs: tuple[Bulk | Latency, ...]
    nixl_python: str = ""


class Build(msgspec.Struct, frozen=True):
    """Build `hosts` with two shaped NICs, with the fabric or with stock Mininet; then wait."""

    hosts: int
    stock: bool
    bps: float


class Built(msgspec.Struct, frozen=True):
    """Seconds that building took, and interfaces in the lab's own namespace."""

    took_s: float
    interfaces: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Why a job has no result."""

    failed: str

"""What a lab of `scripts/bench fabric` is asked to do, and what it answers."""

import msgspec


class Bulk(msgspec.Struct, frozen=True, tag="bulk"):
    """Flows of KV into host h0, all over its one NIC, from as many hosts as there are flows.

    `peer` is "ours", "iperf3" or "nixl"; `bps` the payload rate of every NIC, None unshaped.
    """

    peer: str
    bps: float | None
    flows: int = 1
    piece_bytes: int = 1 << 20
    seconds: float = 2.0


class BulkResult(msgspec.Struct, frozen=True, tag=True):
    """Payload per second that h0's TCP delivered, CPU of all processes, and h0's NIC.

    `nic_share` is what the NIC counted of payload, over what TCP delivered.
    """

    goodput_bps: float
    cpu_s_per_gb: float
    nic_share: float


class Latency(msgspec.Struct, frozen=True, tag="latency"):
    """4 KB MODEL messages from h1 to h0 and back, one at a time, `every_s` apart.

    KV saturates h0's NIC meanwhile: from h1 itself, from h1 and h2, or (0) from nobody.
    """

    bps: float
    kv_senders: int
    every_s: float
    seconds: float


class LatencyResult(msgspec.Struct, frozen=True, tag=True):
    """Round trips in seconds, sorted, and KV's payload per second."""

    round_trips_s: list[float]
    kv_bps: float


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

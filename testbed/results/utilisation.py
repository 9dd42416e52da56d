"""How far each directed link and each memory was used over a run's steady window."""

from collections.abc import Mapping
from statistics import fmean

import numpy as np

from engines.config import BufferConfig
from testbed.cluster import SNICS
from testbed.worlds.plan import LabPlan, WirePlan
from testbed.worlds.samples import Samples

DRAM = "dram"


def capacities(wires: WirePlan) -> dict[tuple[str, str], float]:
    """Payload bytes per second of each direction of every data link, by owner and NIC."""
    rates = wires.rates(least_bps=1.0)  # the shaper's limits are the emulated world's business
    return {link: (bps or float("inf")) / 8 for link, bps in rates.payload_bps.items()}


def utilisation(plan: LabPlan, samples: Samples, window: tuple[float, float]) -> dict[str, float]:
    """Shares of capacity by `owner:nic:rx` or `:tx`, as its owner sees it, and by `node:dram`.

    A memory's share counts every byte that its buffer's ports bring in or take out, but for those
    on their way to storage; they are the few that its bandwidth is not booked for.
    """
    rates = _rates(plan, samples, window)
    found = {}
    for (owner, nic), capacity in capacities(plan.wires).items():
        for way in ("rx", "tx"):
            if (owner, nic, way) in rates:
                found[f"{owner}:{nic}:{way}"] = rates[owner, nic, way] / capacity
    layout, scale = plan.world.layout, plan.world.time_scale
    for host in plan.hosts:
        if isinstance(host.role, BufferConfig):
            moved = sum(
                rates.get((host.name, nic, way), 0.0)
                for nic, way in (("snic", "rx"), ("pcie", "rx"), ("pcie", "tx"))
            )
            token_bytes = layout.row_bytes / layout.token_scale
            capacity = host.role.dram_tokens_per_s * token_bytes / scale
            found[f"{host.role.node}:{DRAM}"] = moved / capacity
    return found


def by_kind(shares: Mapping[str, float]) -> dict[str, float]:
    """Means over all parts of a kind, as "PE cnic rx" or "DE dram"; storage hosts are left out.

    All storage NICs that read are one kind: the closed forms ask that together they run full.
    """
    kinds: dict[str, list[float]] = {}
    for name, share in shares.items():
        owner, *words = name.split(":")
        side = {"pe": "PE", "de": "DE"}.get(owner[:2])
        if side is not None:
            kind = SNICS if words == ["snic", "rx"] else " ".join([side, *words])
            kinds.setdefault(kind, []).append(share)
    return {kind: fmean(values) for kind, values in kinds.items()}


def _rates(
    plan: LabPlan, samples: Samples, window: tuple[float, float]
) -> dict[tuple[str, str, str], float]:
    """Bytes per real second of every port and direction over the window."""
    at = [sample.at_monotonic_s for sample in samples.samples]
    edges = [samples.start_monotonic_s + edge * plan.world.time_scale for edge in window]
    length_s = max(edges[1] - edges[0], 1e-9)
    found = {}
    for index, port in enumerate(samples.samples[0].ports):
        ports = [sample.ports[index] for sample in samples.samples]
        for way, series in (
            ("rx", [port.rx_payload_bytes for port in ports]),
            ("tx", [port.tx_payload_bytes for port in ports]),
        ):
            first, last = np.interp(edges, at, series)
            found[port.host, port.nic, way] = float((last - first) / length_s)
    return found

"""How evenly storage NICs were loaded: max over mean, in windows of so many reads a NIC."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.service import Decided
from testbed.results.utilisation import capacities
from testbed.worlds.plan import LabPlan
from testbed.worlds.samples import Samples

READS_PER_SNIC = 100  # with fewer, lots alone make some NIC look overloaded
BUFFER = "-buf"  # how the hosts end that storage NICs hang on


class Balance(msgspec.Struct, frozen=True):
    """Load of the most loaded storage NIC over the mean of all nodes', 1 where all are alike.

    A NIC's load is the share of its rate that it received. `max_over_mean` is the mean over
    `windows` equal pieces of the steady window, `worst` the largest of them; `reads_per_snic` is
    how many reads a piece holds for each NIC, less than 100 only if the steady window does. A run
    without reads has zeros.
    """

    max_over_mean: float
    worst: float
    windows: int
    reads_per_snic: float


def snic_rates(
    plan: LabPlan, samples: Samples, edges: Sequence[float]
) -> tuple[list[str], NDArray[np.float64]]:
    """Payload bytes a real second into each node's storage NIC, a row for each pair of `edges`.

    Edges are target seconds.
    """
    found = [
        (index, port.host.removesuffix(BUFFER))
        for index, port in enumerate(samples.samples[0].ports)
        if port.nic == "snic" and port.host.endswith(BUFFER)
    ]
    at = [sample.at_monotonic_s for sample in samples.samples]
    times = samples.start_monotonic_s + np.asarray(edges) * plan.world.time_scale
    lengths_s = np.maximum(np.diff(times), 1e-9)
    columns = []
    for index, _ in found:
        received = [sample.ports[index].rx_payload_bytes for sample in samples.samples]
        columns.append(np.diff(np.interp(times, at, received)) / lengths_s)
    return [node for _, node in found], np.stack(columns, axis=1)


def balance(
    plan: LabPlan, samples: Samples, decided: Sequence[Decided], window: tuple[float, float]
) -> Balance:
    """How even the loads were over the steady window, in target seconds."""
    inside = [entry for entry in decided if window[0] < entry.at_s <= window[1]]
    reads = sum(len(entry.decision.reads) for entry in inside)
    nodes = plan.wires.prefill_nodes + plan.wires.decode_nodes
    pieces = max(1, reads // (READS_PER_SNIC * nodes))
    names, rates = snic_rates(plan, samples, list(np.linspace(*window, pieces + 1)))
    capacity = capacities(plan.wires)
    loads = rates / [capacity[f"{name}{BUFFER}", "snic"] for name in names]
    means = loads.mean(axis=1)
    busy = means > 0
    if not reads or not busy.any():
        return Balance(0.0, 0.0, 0, 0.0)
    ratios = loads.max(axis=1)[busy] / means[busy]
    return Balance(float(ratios.mean()), float(ratios.max()), pieces, reads / pieces / nodes)

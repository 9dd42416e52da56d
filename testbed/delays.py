"""Delays of links and of the ways over them, in target seconds.

A way's delay is the sum over the links that it crosses, each counted once. Control messages cross
none of them. Who makes the delays is one of DELAYED_BY; docs/delay.md says what that means.
"""

from collections.abc import Iterable, Mapping
from itertools import product

from testbed.spec import Experiment
from topologies.shape import ClusterShape

NOBODY, NETEM, DUE_TIME, MODELLED = "none", "netem", "due-time", "modelled"
DELAYED_BY = (NOBODY, NETEM, DUE_TIME, MODELLED)

Delays = Mapping[str, float]  # by link, `owner:nic`


def cluster_shape(experiment: Experiment) -> ClusterShape:
    """The hosts and links of an experiment's cluster."""
    cluster = experiment.cluster
    return ClusterShape(
        cluster.prefill_nodes,
        cluster.decode_nodes,
        cluster.gpus_per_node,
        cluster.folded,
        cluster.storage_hosts,
    )


def link_delays_s(experiment: Experiment, shape: ClusterShape) -> dict[str, float]:
    """Every data link that has a delay."""
    common, found = experiment.delays, {}
    nodes = {node: spec.delays_s for node, spec in experiment.nodes.items()}
    for owner, nic in shape.data_links():
        kind = "storage" if owner in shape.storage else nic
        node = owner.partition("-")[0]
        delay_s = nodes.get(node, {}).get(nic, getattr(common, kind))
        if delay_s:
            found[f"{owner}:{nic}"] = delay_s
    return found


def path_delay_s(shape: ClusterShape, delays: Delays, sender: str, peer: str) -> float:
    """From one host to another, and as much back; 0 if no data network joins them."""
    if not delays:
        return 0.0
    try:
        path = shape.path(sender, peer)
    except ValueError:
        return 0.0
    return sum(delays.get(f"{port.owner}:{port.nic}", 0.0) for port in path)


def peer_delays_s(
    shape: ClusterShape, delays: Delays, host: str, peers: Iterable[str]
) -> dict[str, float]:
    """Of a host's ways to its peers, those that have a delay."""
    found = {peer: path_delay_s(shape, delays, host, peer) for peer in peers if peer != host}
    return {peer: delay_s for peer, delay_s in found.items() if delay_s}


def ways_s(experiment: Experiment) -> dict[str, float]:
    """The longest delay of each kind of way that turns take; empty if no link has any."""
    shape = cluster_shape(experiment)
    delays = link_delays_s(experiment, shape)
    if not delays:
        return {}
    prefill = _different(experiment, experiment.cluster.prefill)
    decode = _different(experiment, experiment.cluster.decode)
    buffers = {node: shape.buffer_host(node) for node in (*prefill, *decode)}
    gpus = {node: shape.gpu_hosts(node)[0] for node in buffers}
    ways = {
        "storage to buffer": product(shape.storage[:1], buffers.values()),
        "buffer to its GPUs": zip(buffers.values(), gpus.values(), strict=True),
        "PE GPUs to DE buffer": product(
            [gpus[node] for node in prefill], [buffers[node] for node in decode]
        ),
    }
    return {
        way: max(path_delay_s(shape, delays, near, far) for near, far in pairs)
        for way, pairs in ways.items()
    }


def _different(experiment: Experiment, nodes: tuple[str, ...]) -> list[str]:
    """One node of many that are alike, and each that is not."""
    special = experiment.nodes
    plain = [node for node in nodes if node not in special]
    return [*plain[:1], *(node for node in nodes if node in special)]

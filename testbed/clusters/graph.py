"""A cluster's network as a graph, of an experiment or alive, in three languages for pictures."""

from collections.abc import Iterator, Mapping

import msgspec

from testbed.clusters.protocol import View
from testbed.worlds.plan import WirePlan
from testbed.worlds.wires import shape_of
from topologies.shape import COMPUTE_SWITCH, MGMT_SWITCH, STORAGE_SWITCH, ClusterShape


class Edge(msgspec.Struct, frozen=True):
    """A data link; rates in payload bit/s, `sent` and `received` as shares of it if measured."""

    owner: str
    nic: str
    rate_bps: float | None
    sent: float | None = None
    received: float | None = None

    @property
    def label(self) -> str:
        """NIC, rate and, if measured, how full it is each way."""
        words = self.nic
        if self.rate_bps is not None:
            words = f"{words} {rate_words(self.rate_bps)}"
        if self.sent is not None and self.received is not None:
            words = f"{words} ↑{self.sent:.0%} ↓{self.received:.0%}"
        return words


class Graph(msgspec.Struct, frozen=True):
    """A cluster: its shape, and its data links by (owner, nic)."""

    title: str
    shape: ClusterShape
    edges: dict[tuple[str, str], Edge]


def rate_words(bps: float) -> str:
    """A rate short enough for a picture."""
    return f"{bps / 1e9:.3g}G" if bps >= 1e9 else f"{bps / 1e6:.3g}M"


def planned(title: str, wires: WirePlan, rates: Mapping[tuple[str, str], float | None]) -> Graph:
    """The graph of an experiment that is not up."""
    edges = {key: Edge(*key, rates[key]) for key in rates}
    return Graph(title, shape_of(wires), edges)


def live(before: View, after: View, shape: ClusterShape) -> Graph:
    """The graph of a live cluster, with its load between two looks."""
    length_s = after.at_s - before.at_s
    past = {(one.state.owner, one.state.nic): one.counters for one in before.links}
    edges = {}
    for one in after.links:
        key = (one.state.owner, one.state.nic)
        bps = one.state.payload_bps
        sent = received = None
        if bps is not None and length_s > 0:
            capacity_bytes = bps / 8 * length_s
            moved = one.counters
            sent = (moved.sent_payload_bytes - past[key].sent_payload_bytes) / capacity_bytes
            received = (
                moved.received_payload_bytes - past[key].received_payload_bytes
            ) / capacity_bytes
        edges[key] = Edge(*key, bps, sent, received)
    return Graph(after.about.name, shape, edges)


def _hosts(shape: ClusterShape) -> Iterator[tuple[str, list[str]]]:
    for node in shape.nodes:
        yield node, [*shape.gpu_hosts(node), shape.buffer_host(node)]


def mermaid(graph: Graph) -> str:
    """A flowchart for Markdown pages (mermaid.js.org)."""
    shape = graph.shape
    lines = ["flowchart TB"]
    for node, hosts in _hosts(shape):
        lines.append(f'  subgraph {_id(node)}["{node}"]')
        lines.append(f'    {_id(shape.node_switch(node))}(["{shape.node_switch(node)}"])')
        lines += [f'    {_id(host)}["{host}"]' for host in hosts]
        lines.append("  end")
    lines += [f'  {_id(host)}["{host}"]' for host in shape.storage]
    lines += [f'  {_id(one)}(["{one}"])' for one in (COMPUTE_SWITCH, STORAGE_SWITCH)]
    for near, far, edge in _edges(graph):
        lines.append(f'  {_id(near)} ---|"{edge.label}"| {_id(far)}')
    return "\n".join(lines) + "\n"


def dot(graph: Graph) -> str:
    """Graphviz's language."""
    shape = graph.shape
    lines = ["graph cluster {", "  rankdir=BT; node [shape=box, fontname=Helvetica, fontsize=10];"]
    lines.append("  edge [fontname=Helvetica, fontsize=8];")
    for node, hosts in _hosts(shape):
        lines.append(f'  subgraph "cluster_{node}" {{ label="{node}";')
        lines.append(f'    "{shape.node_switch(node)}" [shape=ellipse];')
        lines += [f'    "{host}";' for host in hosts]
        lines.append("  }")
    for one in (COMPUTE_SWITCH, STORAGE_SWITCH):
        lines.append(f'  "{one}" [shape=ellipse];')
    for near, far, edge in _edges(graph):
        lines.append(f'  "{near}" -- "{far}" [label="{edge.label}"];')
    return "\n".join([*lines, "}"]) + "\n"


def _id(name: str) -> str:
    return name.replace("-", "_")


def _edges(graph: Graph) -> Iterator[tuple[str, str, Edge]]:
    """Every data link with its two ends."""
    switches = {(nic.host, nic.nic): nic.switch for nic in graph.shape.nics()}
    for (owner, nic), edge in graph.edges.items():
        if nic == "uplink":
            yield graph.shape.node_switch(owner), COMPUTE_SWITCH, edge
        else:
            yield owner, switches[owner, nic], edge


def control_hosts(shape: ClusterShape) -> list[str]:
    """Hosts that hang on the management switch alone."""
    data = {nic.host for nic in shape.nics() if nic.network != "mgmt"}
    every = {nic.host for nic in shape.nics() if nic.switch == MGMT_SWITCH}
    return sorted(every - data)

"""A cluster's network drawn as SVG: nodes side by side between the compute and storage switches."""

from collections.abc import Sequence
from html import escape

from testbed.clusters.graph import Edge, Graph, control_hosts
from topologies.shape import COMPUTE_SWITCH, MGMT_SWITCH, STORAGE_SWITCH, ClusterShape

MARGIN, GAP = 20, 24
HOST_WIDTH, HOST_HEIGHT = 108, 34
NODE_PAD = 14
BAR = 30
LINE = 64  # what a link's line has for itself and its label
ROW_WIDTH = 2240  # of nodes side by side: eight that have one GPU host
STORES = 16  # storage hosts side by side
AGAIN = " (one switch, drawn in each row)"
IDLE, BUSY = (0x8A, 0x8A, 0x94), (0xC8, 0x1E, 0x1E)


class _Canvas:
    def __init__(self) -> None:
        self.parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, words: str, css: str, radius: int = 4
    ) -> None:
        self.parts.append(
            f'<rect class="{css}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            f'rx="{radius}"/>'
        )
        self.text(x + width / 2, y + height / 2 + 4, words)

    def text(self, x: float, y: float, words: str, css: str = "name") -> None:
        self.parts.append(f'<text class="{css}" x="{x:g}" y="{y:g}">{escape(words)}</text>')

    def link(self, x: float, top: float, bottom: float, edge: Edge) -> None:
        """A vertical line, as red and thick as its busier direction is full."""
        share = max(edge.sent or 0.0, edge.received or 0.0)
        self.parts.append(
            f'<line x1="{x:g}" y1="{top:g}" x2="{x:g}" y2="{bottom:g}" stroke="{_colour(share)}" '
            f'stroke-width="{1.5 + 5 * min(share, 1):.1f}"/>'
        )
        middle = (top + bottom) / 2
        first, *rest = edge.label.split(" ", 2)
        self.text(x + 6, middle - 4, " ".join([first, *rest[:1]]), "link")
        if len(rest) > 1:
            self.text(x + 6, middle + 9, rest[1], "link")


def _colour(share: float) -> str:
    part = min(max(share, 0.0), 1.0)
    mixed = (round(a + (b - a) * part) for a, b in zip(IDLE, BUSY, strict=True))
    return "#" + "".join(f"{one:02x}" for one in mixed)


def svg(graph: Graph) -> str:
    """The picture; opens in any browser. Many nodes stand in rows, each with both switches."""
    shape, canvas = graph.shape, _Canvas()
    rows = _rows(shape)
    stores = [shape.storage[at : at + STORES] for at in range(0, len(shape.storage), STORES)]
    widths = [sum(_width(shape, node) + GAP for node in row) for row in rows]
    right = MARGIN + max([*(width - GAP for width in widths), len(stores[0]) * (HOST_WIDTH + GAP)])
    bar_width = right - MARGIN
    y = float(MARGIN + 24)
    for number, row in enumerate(rows):
        words = COMPUTE_SWITCH + (AGAIN if number else "")
        canvas.box(MARGIN, y, bar_width, BAR, words, "switch")
        storage_y = _nodes(canvas, graph, row, y)
        if number + 1 < len(rows):
            canvas.box(MARGIN, storage_y, bar_width, BAR, STORAGE_SWITCH + AGAIN, "switch")
            y = storage_y + BAR + GAP
    for number, hosts in enumerate(stores):
        words = STORAGE_SWITCH + (AGAIN if number else "")
        canvas.box(MARGIN, storage_y, bar_width, BAR, words, "switch")
        storage_y = _stores(canvas, graph, hosts, storage_y)
    words = f"{MGMT_SWITCH}: every host, {', '.join(control_hosts(shape))}"
    canvas.box(MARGIN, storage_y, bar_width, BAR, words, "mgmt")
    canvas.text(MARGIN, MARGIN + 8, graph.title, "title start")
    return _page(right + MARGIN, storage_y + BAR + MARGIN, canvas.parts)


def _hosts(shape: ClusterShape, node: str) -> list[str]:
    return [*shape.gpu_hosts(node), shape.buffer_host(node)]


def _width(shape: ClusterShape, node: str) -> int:
    return len(_hosts(shape, node)) * (HOST_WIDTH + 8) - 8 + 2 * NODE_PAD


def _rows(shape: ClusterShape) -> list[list[str]]:
    """The nodes, as many side by side as a row has room for."""
    rows: list[list[str]] = [[]]
    for node in shape.nodes:
        if rows[-1] and sum(_width(shape, one) + GAP for one in [*rows[-1], node]) > ROW_WIDTH:
            rows.append([])
        rows[-1].append(node)
    return rows


def _nodes(canvas: _Canvas, graph: Graph, nodes: list[str], compute_y: float) -> float:
    """Nodes with all their links, below a compute switch; returns where storage's belongs."""
    shape = graph.shape
    node_y = compute_y + BAR + LINE
    switch_y = node_y + 22
    host_y = switch_y + BAR + LINE
    node_height = host_y + HOST_HEIGHT + NODE_PAD - node_y
    storage_y = node_y + node_height + LINE
    x = float(MARGIN)
    for node in nodes:
        width = _width(shape, node)
        canvas.box(x, node_y, width, node_height, "", "node", 8)
        canvas.text(x + NODE_PAD + 14, node_y + 15, node, "title")
        canvas.box(
            x + NODE_PAD, switch_y, width - 2 * NODE_PAD, BAR, shape.node_switch(node), "switch"
        )
        canvas.link(x + width / 2, compute_y + BAR, switch_y, graph.edges[node, "uplink"])
        for number, host in enumerate(_hosts(shape, node)):
            left = x + NODE_PAD + number * (HOST_WIDTH + 8)
            nic = "pcie" if host == shape.buffer_host(node) else "cnic"
            canvas.link(left + 30, switch_y + BAR, host_y, graph.edges[host, nic])
            canvas.box(left, host_y, HOST_WIDTH, HOST_HEIGHT, host, nic)
            if nic == "pcie":
                edge = graph.edges[host, "snic"]
                canvas.link(left + 30, host_y + HOST_HEIGHT, storage_y, edge)
        x += width + GAP
    return storage_y


def _stores(canvas: _Canvas, graph: Graph, hosts: Sequence[str], storage_y: float) -> float:
    """Storage hosts below their switch; returns where what follows belongs."""
    store_y = storage_y + BAR + LINE
    for number, host in enumerate(hosts):
        left = MARGIN + number * (HOST_WIDTH + GAP)
        canvas.link(left + 30, storage_y + BAR, store_y, graph.edges[host, "snic"])
        canvas.box(left, store_y, HOST_WIDTH, HOST_HEIGHT, host, "store")
    return store_y + HOST_HEIGHT + GAP


def _page(width: float, height: float, parts: list[str]) -> str:
    style = (
        "text{font-family:sans-serif;fill:#222}.name{font-size:12px;text-anchor:middle}"
        ".link{font-size:10px}.title{font-size:13px;font-weight:bold;text-anchor:middle}"
        ".start{text-anchor:start}rect{stroke:#555;fill:#fff}.node{fill:#f4f5f8;stroke:#aab}"
        ".switch{fill:#e3e8f4}.cnic{fill:#e6f4e3}.pcie{fill:#fdf0d8}.store{fill:#f4e3ee}"
        ".mgmt{fill:#fff;stroke-dasharray:4 3}"
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}">'
    )
    ground = f'<rect width="{width:g}" height="{height:g}" style="stroke:none"/>'
    return "\n".join([head, f"<style>{style}</style>", ground, *parts, "</svg>"]) + "\n"

"""A cluster's network drawn as SVG: nodes side by side between the compute and storage switches."""

from html import escape

from testbed.clusters.graph import Edge, Graph, control_hosts
from topologies.shape import COMPUTE_SWITCH, MGMT_SWITCH, STORAGE_SWITCH

MARGIN, GAP = 20, 24
HOST_WIDTH, HOST_HEIGHT = 108, 34
NODE_PAD = 14
BAR = 30
LINE = 64  # what a link's line has for itself and its label
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
    """The picture; opens in any browser."""
    shape, canvas = graph.shape, _Canvas()
    compute_y = MARGIN + 24
    node_y = compute_y + BAR + LINE
    switch_y = node_y + 22
    host_y = switch_y + BAR + LINE
    node_height = host_y + HOST_HEIGHT + NODE_PAD - node_y
    storage_y = node_y + node_height + LINE
    store_y = storage_y + BAR + LINE
    x = float(MARGIN)
    for node in shape.nodes:
        hosts = [*shape.gpu_hosts(node), shape.buffer_host(node)]
        width = len(hosts) * (HOST_WIDTH + 8) - 8 + 2 * NODE_PAD
        canvas.box(x, node_y, width, node_height, "", "node", 8)
        canvas.text(x + NODE_PAD + 14, node_y + 15, node, "title")
        canvas.box(
            x + NODE_PAD, switch_y, width - 2 * NODE_PAD, BAR, shape.node_switch(node), "switch"
        )
        canvas.link(x + width / 2, compute_y + BAR, switch_y, graph.edges[node, "uplink"])
        for number, host in enumerate(hosts):
            left = x + NODE_PAD + number * (HOST_WIDTH + 8)
            nic = "pcie" if host == shape.buffer_host(node) else "cnic"
            canvas.link(left + 30, switch_y + BAR, host_y, graph.edges[host, nic])
            canvas.box(left, host_y, HOST_WIDTH, HOST_HEIGHT, host, nic)
            if nic == "pcie":
                edge = graph.edges[host, "snic"]
                canvas.link(left + 30, host_y + HOST_HEIGHT, storage_y, edge)
        x += width + GAP
    right = max(x - GAP, MARGIN + len(shape.storage) * (HOST_WIDTH + GAP))
    canvas.box(MARGIN, compute_y, right - MARGIN, BAR, COMPUTE_SWITCH, "switch")
    canvas.box(MARGIN, storage_y, right - MARGIN, BAR, STORAGE_SWITCH, "switch")
    for number, host in enumerate(shape.storage):
        left = MARGIN + number * (HOST_WIDTH + GAP)
        canvas.link(left + 30, storage_y + BAR, store_y, graph.edges[host, "snic"])
        canvas.box(left, store_y, HOST_WIDTH, HOST_HEIGHT, host, "store")
    below = store_y + HOST_HEIGHT + GAP
    words = f"{MGMT_SWITCH}: every host, {', '.join(control_hosts(shape))}"
    canvas.box(MARGIN, below, right - MARGIN, BAR, words, "mgmt")
    canvas.text(MARGIN, MARGIN + 8, graph.title, "title start")
    return _page(right + MARGIN, below + BAR + MARGIN, canvas.parts)


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

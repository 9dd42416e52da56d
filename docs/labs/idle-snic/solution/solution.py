"""Lab idle-snic: which side's storage NIC reads a request's KV?

This file is a whole policy. It places requests as DualPath does; the read path is yours.
Change only the lines between the two marks. Then: testbed lab check
"""

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.policies.dualpath import DualPath
from scheduler.types import ReadExtent, Request, Side


class MyReadPath(DualPath):
    """DualPath with another read path."""

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """All of the request's hit blocks, read on the side that `side` gives."""
        return path.whole(cluster, request, self.side(cluster, request, pe, de))

    # ---- your lines begin here: at most 30 ----

    def __init__(self) -> None:
        super().__init__()
        self._given: dict[str, int] = {}  # tokens that each node was ever given to read

    def side(self, cluster: Cluster, request: Request, pe: str, de: str) -> Side:
        """The side whose node has less to read; if that is equal, the one that was given less."""
        nodes = {Side.PE: cluster.node_of(pe), Side.DE: cluster.node_of(de)}
        ranks = {
            side: (node.read_queue_tokens, self._given.get(node.name, 0))
            for side, node in nodes.items()
        }
        side = min(ranks, key=ranks.__getitem__)
        name = nodes[side].name
        self._given[name] = self._given.get(name, 0) + request.hit_tokens
        return side

    # ---- your lines end here ----


POLICY = MyReadPath

"""`static-split`: as `dualpath`, but every storage NIC gets an equal share of the reads.

The comparison for "no policy is told the rate": a fixed share is right only while all NICs are
equally fast, a read queue shows when one is not.
"""

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.policies.dualpath import DualPath
from scheduler.types import ReadExtent, Request, Side


class StaticSplit(DualPath):
    """Nodes read in turn, whatever their queues say."""

    def __init__(self) -> None:
        super().__init__()
        self._reads: dict[str, int] = {}

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """All hits on the node that had fewer turns so far.

        Counting turns per node instead of alternating sides keeps the shares equal however
        the DEs are chosen: a rotation of sides can fall into step with them.
        """
        if not request.hit_tokens:
            return ()
        pe_node, de_node = cluster.node_of(pe).name, cluster.node_of(de).name
        side = Side.PE if self._turns(pe_node) <= self._turns(de_node) else Side.DE
        node = pe_node if side is Side.PE else de_node
        self._reads[node] = self._turns(node) + 1
        return path.whole(cluster, request, side)

    def _turns(self, node: str) -> int:
        return self._reads.get(node, 0)


POLICY = StaticSplit

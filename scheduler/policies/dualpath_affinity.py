"""`dualpath-affinity`: both read paths, and sessions that return to where their KV is in DRAM."""

from collections.abc import Mapping

from scheduler import path
from scheduler.affinity import de_group
from scheduler.cluster import Cluster
from scheduler.decode import DecodeQueue
from scheduler.policies.affinity import Affinity
from scheduler.types import Side


class DualPathAffinity(Affinity):
    """As `affinity` on both sides; the node that would be through first reads, cached or not."""

    def __init__(self) -> None:
        super().__init__()
        self._decode = DecodeQueue(lambda cluster, request: de_group(cluster, self._index, request))

    def _side(self, cluster: Cluster, pe: str, de: str, cached: Mapping[Side, int]) -> Side:
        """The shorter queue, once what the node would have to read of this request is behind it.

        With nothing in DRAM this is the rule of `dualpath`, ties included.
        """
        block_tokens = cluster.spec.block_tokens
        pe_node, de_node = cluster.node_of(pe), cluster.node_of(de)
        pe_tokens = path.left_tokens(cluster, pe_node) - cached[Side.PE] * block_tokens
        de_tokens = path.left_tokens(cluster, de_node) - cached[Side.DE] * block_tokens
        if pe_tokens != de_tokens:
            return Side.PE if pe_tokens < de_tokens else Side.DE
        return Side.PE if pe_node.read_tokens <= de_node.read_tokens else Side.DE


POLICY = DualPathAffinity

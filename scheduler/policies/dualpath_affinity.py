"""`dualpath-affinity`: both read paths, and sessions that return to where their KV is in DRAM."""

from scheduler import path
from scheduler.affinity import de_group
from scheduler.cluster import Cluster
from scheduler.decode import DecodeQueue
from scheduler.policies.affinity import Affinity
from scheduler.types import ReadExtent, Request, Side


class DualPathAffinity(Affinity):
    """As `affinity` on both sides; the node that would be through first reads, cached or not."""

    def __init__(self) -> None:
        super().__init__()
        self._decode = DecodeQueue(lambda cluster, request: de_group(cluster, self._index, request))

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """The shorter queue, once what the node would have to read of this request is behind it.

        With nothing in DRAM this is the rule of `dualpath`, ties included.
        """
        cached = self._cached_blocks(cluster, request, pe, de)
        block_tokens = cluster.spec.block_tokens
        pe_node, de_node = cluster.node_of(pe), cluster.node_of(de)
        pe_tokens = path.left_tokens(cluster, pe_node) - cached[Side.PE] * block_tokens
        de_tokens = path.left_tokens(cluster, de_node) - cached[Side.DE] * block_tokens
        pe_rank, de_rank = (pe_tokens, pe_node.read_tokens), (de_tokens, de_node.read_tokens)
        side = Side.PE if pe_rank <= de_rank else Side.DE
        return self._read_on(side, cached, cluster, request, pe, de)


POLICY = DualPathAffinity

"""`affinity`: routing by cached prefix, as serving systems with DRAM caches do; one read path.

What Mooncake and llm-d stand for, on the same engines and with the same layerwise prefill as
`dualpath`: a session returns to the prefill node that has its KV in DRAM, and what is not there is
read by that node alone.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from scheduler import path
from scheduler.affinity import AffinityQueue
from scheduler.cluster import Cluster
from scheduler.decode import DecodeQueue
from scheduler.policy import Placement, Traits
from scheduler.prefix import PrefixIndex
from scheduler.types import ReadExtent, Request, Side


class Affinity:
    """Prefill nodes by cached prefix within a bound on load; DEs by load; the former read."""

    traits = Traits(layerwise=True, quota_s=0.3)

    def __init__(self) -> None:
        self._index = PrefixIndex()
        self._prefill = AffinityQueue(self._index)
        self._decode = DecodeQueue()

    def arrived(self, cluster: Cluster, request: Request) -> Iterable[Placement]:
        """Queue a request for a prefill node and for a DE; groups fetch it."""
        self._prefill.push(cluster, request)
        self._decode.push(request)
        return ()

    def fetch(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """Place waiting requests on the fetching group."""
        if cluster.groups[group].side is Side.PE:
            return self._prefill.fetch(cluster, group)
        return self._decode.fetch(cluster, group)

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """The prefill node reads all that its DRAM lacks; both nodes cache what passes."""
        cached = self._cached_blocks(cluster, request, pe, de)
        return self._read_on(Side.PE, cached, cluster, request, pe, de)

    def ended(self, request_id: int) -> None:
        """Forget a request that failed while it waited."""
        self._prefill.drop(request_id)
        self._decode.drop(request_id)

    def _cached_blocks(
        self, cluster: Cluster, request: Request, pe: str, de: str
    ) -> dict[Side, int]:
        """Hit blocks of the request that the two nodes should have in DRAM."""
        found = self._index.cached_blocks(request)
        nodes = {Side.PE: cluster.node_of(pe).name, Side.DE: cluster.node_of(de).name}
        return {side: found.get(node, 0) for side, node in nodes.items()}

    def _read_on(
        self, side: Side, cached: Mapping[Side, int], cluster: Cluster, request: Request,
        pe: str, de: str,
    ) -> tuple[ReadExtent, ...]:  # fmt: skip
        """All on one side, and what the nodes have then."""
        reads = tuple(
            msgspec.structs.replace(read, cached=cached[side])
            for read in path.whole(cluster, request, side)
        )
        self._index.decided(cluster, request, pe, de, reads)
        return reads


POLICY = Affinity

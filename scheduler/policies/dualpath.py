"""`dualpath`: the paper's scheduler (DualPath sections 6.2 to 6.5)."""

from collections.abc import Iterable, Iterator

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.decode import DecodeQueue
from scheduler.policy import Placement, Traits, leaving
from scheduler.prefill import PrefillQueue
from scheduler.types import ReadExtent, Request, Side


class DualPath:
    """Algorithm 1 for PEs, two levels for DEs, and the side with the shorter read queue."""

    # 0.3 s of one GPU's attention over all layers: the paper leaves open whether it means one.
    traits = Traits(layerwise=True, quota_s=0.3)

    def __init__(self) -> None:
        self._prefill = PrefillQueue()
        self._decode = DecodeQueue()

    def arrived(self, cluster: Cluster, request: Request) -> Iterable[Placement]:
        """Queue a request for both sides; groups fetch it."""
        self._prefill.push(request)
        self._decode.push(request)
        return ()

    def fetch(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """Place waiting requests on the fetching group."""
        if cluster.groups[group].side is Side.PE:
            return leaving(self._prefill, self.prefill(cluster, group))
        return leaving(self._decode, self.decode(cluster, group))

    def prefill(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """A PE group fetches: Algorithm 1 (section 6.2)."""
        return self._prefill.fetch(cluster, group)

    def decode(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """A DE group fetches: first the group of each request, then the engine (section 6.3)."""
        return self._decode.fetch(cluster, group)

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """All hits on the side whose node has less to read (section 6.4)."""
        return path.whole(cluster, request, path.shorter_queue(cluster, pe, de))

    def ended(self, request_id: int) -> None:
        """Forget a request that failed while it waited."""
        self._prefill.drop(request_id)
        self._decode.drop(request_id)


POLICY = DualPath

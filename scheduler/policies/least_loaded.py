"""`least-loaded`: a load balancer in front of a cluster with both paths.

Each choice is the least loaded at the arrival: PE, DE and storage NIC. What it lacks of `dualpath`
is the queue: what is pushed can no longer be put elsewhere, and nobody asks for free HBM.
"""

from collections.abc import Iterator

from scheduler import path
from scheduler.books import EngineBook
from scheduler.cluster import Cluster
from scheduler.policies.round_robin import RoundRobin
from scheduler.policy import Placement
from scheduler.types import ReadExtent, Request, Side


class LeastLoaded(RoundRobin):
    """Fewest tokens wins, on either side and among the two read queues."""

    def arrived(self, cluster: Cluster, request: Request) -> Iterator[Placement]:
        """Place a request at once."""
        for side in Side:
            yield Placement(request.id, min(cluster.on(side), key=_load).name)

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """All hits on the side whose node has less to read."""
        return path.whole(cluster, request, path.shorter_queue(cluster, pe, de))


def _load(engine: EngineBook) -> tuple[int, int, int]:
    return engine.tokens, engine.requests, engine.order


POLICY = LeastLoaded

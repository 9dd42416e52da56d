"""`round-robin`: both paths without a look at any load. Engines in turn, and sides in turn."""

from collections.abc import Iterable, Iterator

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.policy import Placement, Traits
from scheduler.types import ReadExtent, Request, Side


class RoundRobin:
    """Request n goes to PE n and DE n at its arrival, and neighbours read on different sides."""

    # Placement is all that differs from `basic`, and KV that moves beside the compute: the quota
    # is a part of the paper's scheduling.
    traits = Traits(layerwise=True, max_tokens=8192)

    def __init__(self) -> None:
        self._arrivals = self._number = 0

    def number(self, request: Request) -> int:
        """What an arriving request counts as; it is asked for once."""
        self._arrivals += 1
        return self._arrivals - 1

    def arrived(self, cluster: Cluster, request: Request) -> Iterator[Placement]:
        """Place a request at once, on the engines of its number."""
        self._number = self.number(request)
        for side in Side:
            engines = cluster.on(side)
            yield Placement(request.id, engines[self._number % len(engines)].name)

    def fetch(self, cluster: Cluster, group: str) -> Iterable[Placement]:
        """Nothing waits for a fetch."""
        return ()

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """One side after the other."""
        return path.whole(cluster, request, path.in_turn(cluster, self._number))

    def ended(self, request_id: int) -> None:
        """Nothing is queued."""


POLICY = RoundRobin

"""`random`: each of the three choices by lot; the same run's seed draws the same lots."""

from collections.abc import Iterator

import xxhash

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.policies.round_robin import RoundRobin
from scheduler.policy import Placement
from scheduler.types import ReadExtent, Request, Side


class Random(RoundRobin):
    """Any PE, any DE, either side, each alike and apart from the others.

    A lot is the xxh3 of the cluster's seed, the request's id and what is drawn: it hangs neither
    on the order of events nor on how many lots were drawn before.
    """

    def arrived(self, cluster: Cluster, request: Request) -> Iterator[Placement]:
        """Place a request at once."""
        for side in Side:
            engines = cluster.on(side)
            lot = _lot(cluster, request, side, len(engines))
            yield Placement(request.id, engines[lot].name)

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """Either side."""
        side = tuple(Side)[_lot(cluster, request, "reads", len(Side))]
        return path.whole(cluster, request, side)


def _lot(cluster: Cluster, request: Request, what: str, count: int) -> int:
    """One of `count`; 64 bits for a few engines make none of them likelier than another."""
    words = f"{cluster.spec.seed} {request.id} {what}"
    return xxhash.xxh3_64_intdigest(words.encode()) % count


POLICY = Random

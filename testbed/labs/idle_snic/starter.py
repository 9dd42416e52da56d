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

    def side(self, cluster: Cluster, request: Request, pe: str, de: str) -> Side:
        """Side.PE or Side.DE: the node of engine `pe` reads, or that of engine `de`."""
        return Side.PE

    # ---- your lines end here ----


POLICY = MyReadPath

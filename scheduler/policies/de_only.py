"""`de-only`: as `dualpath`, but every read goes to the decode side (Figure 4b alone)."""

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.policies.dualpath import DualPath
from scheduler.types import ReadExtent, Request, Side


class DeOnly(DualPath):
    """The second path on its own: prefill DRAM is never touched."""

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """The decode node reads all."""
        return path.whole(cluster, request, Side.DE)


POLICY = DeOnly

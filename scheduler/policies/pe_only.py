"""`pe-only`: as `dualpath`, but every read goes to the prefill side (Figure 4a alone)."""

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.policies.dualpath import DualPath
from scheduler.types import ReadExtent, Request, Side


class PeOnly(DualPath):
    """What layerwise prefill and scheduling give without the second path."""

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """The prefill node reads all."""
        return path.whole(cluster, request, Side.PE)


POLICY = PeOnly

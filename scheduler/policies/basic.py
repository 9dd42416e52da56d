"""`basic`: today's serving. Engines in turn at arrival; only prefill nodes read."""

from collections.abc import Iterable, Iterator

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.policy import Placement, Traits
from scheduler.types import ReadExtent, Request, Side


class Basic:
    """Round-robin over PEs and DEs, without a look at their load."""

    # A fair baseline. Reading only when a GPU asks would be slower than what the paper compares
    # with; and serving engines cut prefills, on GPUs of this size at 8,192 tokens by default.
    traits = Traits(layerwise=False, max_tokens=8192, read_ahead=256)

    def __init__(self) -> None:
        self._arrivals = 0

    def arrived(self, cluster: Cluster, request: Request) -> Iterator[Placement]:
        """Place a request at once, on the next engine of either side."""
        turn = self._arrivals
        self._arrivals += 1
        for side in Side:
            engines = cluster.on(side)
            yield Placement(request.id, engines[turn % len(engines)].name)

    def fetch(self, cluster: Cluster, group: str) -> Iterable[Placement]:
        """Nothing waits for a fetch."""
        return ()

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """The prefill node reads all."""
        return path.whole(cluster, request, Side.PE)

    def ended(self, request_id: int) -> None:
        """Nothing is queued."""


POLICY = Basic

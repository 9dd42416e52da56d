"""Which PE prefills a request: Algorithm 1 of DualPath (section 6.2)."""

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from scheduler.books import EngineBook
from scheduler.cluster import Cluster
from scheduler.policy import Placement
from scheduler.types import Request


class PrefillQueue:
    """The global FIFO of requests that wait for a PE."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, Request] = OrderedDict()

    def push(self, request: Request) -> None:
        """Queue an arrived request."""
        self._waiting[request.id] = request

    def drop(self, request_id: int) -> None:
        """Forget a request that ended while it waited."""
        self._waiting.pop(request_id, None)

    def fetch(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """Place requests on the fetching group's PEs, as `place` does."""
        return self.place(cluster, cluster.groups[group].engines)

    def place(self, cluster: Cluster, engines: Sequence[EngineBook]) -> Iterator[Placement]:
        """Place requests in order of arrival on these PEs until all are overloaded.

        What was just placed has moved tok_e, and read_q too where its DE was fixed already: the
        sets are those of the moment for each request.
        """
        if not self._waiting:
            return
        sets = _Sets(cluster, engines)
        while self._waiting and (engine := sets.pop()):
            request_id, _ = self._waiting.popitem(last=False)
            yield Placement(request_id, engine.name)
            sets.put(engine)


class _Sets:
    """C2 and C3 of Algorithm 1; whoever is in neither is in C1, the overloaded.

    During a fetch tok_e moves only where a request was placed, and read_q only grows: so both
    are heaps, and an engine whose queue has become long moves from C2 to C3 when it comes up.
    """

    def __init__(self, cluster: Cluster, engines: Sequence[EngineBook]) -> None:
        self._alpha_tokens = cluster.spec.alpha_tokens
        self._beta_tokens = cluster.spec.beta_tokens
        normal = [_entry(e) for e in engines if e.tokens <= self._beta_tokens]
        self._short = [entry for entry in normal if not self._reads_long(entry[-1])]
        self._long = [entry for entry in normal if self._reads_long(entry[-1])]
        heapq.heapify(self._short)
        heapq.heapify(self._long)

    def pop(self) -> EngineBook | None:
        """The least loaded of C2, whose storage NIC may soon run dry; else that of C3."""
        while self._short:
            entry = heapq.heappop(self._short)
            if not self._reads_long(entry[-1]):
                return entry[-1]
            heapq.heappush(self._long, entry)
        return heapq.heappop(self._long)[-1] if self._long else None

    def put(self, engine: EngineBook) -> None:
        """Form the sets anew with an engine that was placed on."""
        if engine.tokens <= self._beta_tokens:
            heapq.heappush(self._long if self._reads_long(engine) else self._short, _entry(engine))

    def _reads_long(self, engine: EngineBook) -> bool:
        return engine.node.read_queue_tokens > self._alpha_tokens


def _entry(engine: EngineBook) -> tuple[int, int, int, EngineBook]:
    """The least loaded comes first: by tok_e, then seq_e, then in natural order."""
    return engine.tokens, engine.requests, engine.order, engine

"""Which DE decodes a request: first a group, then an engine of it (DualPath section 6.3)."""

import heapq
from collections.abc import Iterable, Iterator

from scheduler.cluster import Cluster, EngineBook, Group
from scheduler.policy import Placement
from scheduler.types import Request, Side

HIGH_FACTOR = 1.05


class DecodeQueue:
    """The global queue of requests without a DE, and each DE group's private queue."""

    def __init__(self) -> None:
        self._waiting: dict[int, Request] = {}
        self._private: dict[str, dict[int, Request]] = {}

    def push(self, request: Request) -> None:
        """Queue an arrived request."""
        self._waiting[request.id] = request

    def drop(self, request_id: int) -> None:
        """Forget a request that ended while it waited."""
        self._waiting.pop(request_id, None)
        for queue in self._private.values():
            queue.pop(request_id, None)

    def fetch(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """Drain the global queue over all groups, then place the fetching group's own requests."""
        self._drain(cluster)
        queue = self._private.setdefault(group, {})
        engines = cluster.groups[group].engines
        fitting = _unfragmented(cluster, engines, queue.values())
        high_tokens = _high_tokens(engines, fitting)
        for request in fitting:
            engine = _choose(cluster, engines, request, high_tokens)
            if engine is None:
                return
            del queue[request.id]
            yield Placement(request.id, engine.name)

    def _drain(self, cluster: Cluster) -> None:
        """Each request to the group with the fewest tokens, those in private queues included.

        Without them a burst between two fetches would all go to one group.
        """
        if not self._waiting:
            return
        groups = [group for group in cluster.groups.values() if group.side is Side.DE]
        heap = [(self._tokens(group), rank, group.name) for rank, group in enumerate(groups)]
        heapq.heapify(heap)
        for request in self._waiting.values():
            tokens, rank, name = heap[0]
            heapq.heapreplace(heap, (tokens + request.context_tokens, rank, name))
            self._private.setdefault(name, {})[request.id] = request
        self._waiting.clear()

    def _tokens(self, group: Group) -> int:
        queue = self._private.get(group.name, {})
        return group.tokens + sum(request.context_tokens for request in queue.values())


def _unfragmented(
    cluster: Cluster, engines: list[EngineBook], queue: Iterable[Request]
) -> list[Request]:
    """R: the head of the queue that would fit if the group's free HBM were in one piece."""
    free_tokens = sum(max(0, engine.free_hbm_tokens) for engine in engines)
    fitting = []
    for request in queue:
        free_tokens -= cluster.hbm_tokens(request)
        if free_tokens < 0:
            break
        fitting.append(request)
    return fitting


def _high_tokens(engines: list[EngineBook], fitting: list[Request]) -> float:
    """Z: 5 % above the mean load of a DE once all of R is placed, in tokens."""
    placed = sum(request.context_tokens for request in fitting)
    return HIGH_FACTOR * (placed + sum(engine.tokens for engine in engines)) / len(engines)


def _choose(
    cluster: Cluster, engines: list[EngineBook], request: Request, high_tokens: float
) -> EngineBook | None:
    """Of the DEs with room: the one with fewest requests that stays normal, else least tokens."""
    needed_tokens = cluster.hbm_tokens(request)
    roomy = [engine for engine in engines if engine.free_hbm_tokens >= needed_tokens]
    normal = [engine for engine in roomy if engine.tokens + request.context_tokens <= high_tokens]
    if normal:
        return min(normal, key=lambda engine: (engine.requests, engine.tokens, engine.order))
    return min(
        roomy, key=lambda engine: (engine.tokens, engine.requests, engine.order), default=None
    )

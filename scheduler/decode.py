"""Which DE decodes a request: first a group, then an engine of it (DualPath section 6.3)."""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence

from scheduler.books import EngineBook, Group
from scheduler.cluster import Cluster
from scheduler.policy import Placement
from scheduler.types import Request, Side

HIGH_FACTOR = 1.05


def fewest_tokens(cluster: Cluster, request: Request) -> Group:
    """The DE group with the fewest tokens, those in private queues included."""
    return cluster.groups_by_load[Side.DE].lightest()


class DecodeQueue:
    """The global queue of requests without a DE, and each DE group's private queue.

    `choose` says to which group's a request goes.
    """

    def __init__(self, choose: Callable[[Cluster, Request], Group] = fewest_tokens) -> None:
        self._choose_group = choose
        self._waiting: dict[int, Request] = {}
        self._private: dict[str, dict[int, Request]] = {}
        self._group_of: dict[int, Group] = {}  # of each request in a private queue

    @property
    def waiting(self) -> list[Request]:
        """Requests without a group, in their order."""
        return list(self._waiting.values())

    def private(self, group: str) -> list[Request]:
        """Requests that wait for a DE of the group, in their order."""
        return list(self._private.get(group, {}).values())

    def push(self, request: Request) -> None:
        """Queue an arrived request."""
        self._waiting[request.id] = request

    def drop(self, request_id: int) -> None:
        """Forget a request that ended while it waited."""
        self._waiting.pop(request_id, None)
        if request_id in self._group_of:
            self._leave(request_id)

    def fetch(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """Drain the global queue over all groups, then place the fetching group's own requests."""
        self._drain(cluster)
        queue = self._private.get(group)
        if not queue:
            return
        fetching = cluster.groups[group]
        fitting = _unfragmented(cluster, fetching.engines, queue.values())
        if not fitting:
            return
        high_tokens = _high_tokens(fetching, fitting)
        ranked = sorted(fetching.engines, key=_fewest_requests)
        for request in fitting:
            engine = _choose(cluster, ranked, request, high_tokens)
            if engine is None:
                return
            # Out of the order while its place in it changes.
            ranked.remove(engine)
            self._leave(request.id)
            yield Placement(request.id, engine.name)
            insort(ranked, engine, key=_fewest_requests)

    def _drain(self, cluster: Cluster) -> None:
        """Each request to a group: that with the fewest tokens, those in private queues included.

        Without them a burst between two fetches would all go to one group.
        """
        for request in self._waiting.values():
            group = self._choose_group(cluster, request)
            group.queue(request.context_tokens)
            self._private.setdefault(group.name, {})[request.id] = request
            self._group_of[request.id] = group
        self._waiting.clear()

    def _leave(self, request_id: int) -> None:
        group = self._group_of.pop(request_id)
        request = self._private[group.name].pop(request_id)
        group.queue(-request.context_tokens)


def _unfragmented(
    cluster: Cluster, engines: Sequence[EngineBook], queue: Iterable[Request]
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


def _high_tokens(group: Group, fitting: list[Request]) -> float:
    """Z: 5 % above the mean load of a DE once all of R is placed, in tokens."""
    placed = sum(request.context_tokens for request in fitting)
    return HIGH_FACTOR * (placed + group.tokens) / len(group.engines)


def _choose(
    cluster: Cluster, ranked: list[EngineBook], request: Request, high_tokens: float
) -> EngineBook | None:
    """Of the DEs with room: the one with fewest requests that stays normal, else least tokens.

    `ranked` is in order of `_fewest_requests`, so the first normal one is it.
    """
    needed_tokens = cluster.hbm_tokens(request)
    context_tokens = request.context_tokens
    for engine in ranked:
        normal = engine.tokens + context_tokens <= high_tokens
        if normal and engine.free_hbm_tokens >= needed_tokens:
            return engine
    roomy = [engine for engine in ranked if engine.free_hbm_tokens >= needed_tokens]
    return min(
        roomy, key=lambda engine: (engine.tokens, engine.requests, engine.order), default=None
    )


def _fewest_requests(engine: EngineBook) -> tuple[int, int, int]:
    return engine.requests, engine.tokens, engine.order

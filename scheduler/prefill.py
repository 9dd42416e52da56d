"""Which PE prefills a request: Algorithm 1 of DualPath (section 6.2)."""

from collections import OrderedDict
from collections.abc import Iterator

from scheduler.cluster import Cluster, EngineBook
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
        """Place requests in order of arrival on the fetching group's PEs until all are overloaded.

        The sets are formed anew for each request: what was just placed has moved tok_e, and
        read_q too where its DE was fixed already.
        """
        engines = cluster.groups[group].engines
        while self._waiting:
            candidates = _short_queue(cluster, engines) or _long_queue(cluster, engines)
            if not candidates:
                return
            request_id, _ = self._waiting.popitem(last=False)
            yield Placement(request_id, min(candidates, key=_least_loaded).name)


def _short_queue(cluster: Cluster, engines: list[EngineBook]) -> list[EngineBook]:
    """C2, preferred: without new reads their storage NIC may soon run dry."""
    return [
        engine
        for engine in engines
        if engine.tokens <= cluster.spec.beta_tokens
        and engine.node.read_queue_tokens <= cluster.spec.alpha_tokens
    ]


def _long_queue(cluster: Cluster, engines: list[EngineBook]) -> list[EngineBook]:
    """C3, once C2 is empty: any queue will do; what is left out is C1, the overloaded."""
    return [engine for engine in engines if engine.tokens <= cluster.spec.beta_tokens]


def _least_loaded(engine: EngineBook) -> tuple[int, int, int]:
    return engine.tokens, engine.requests, engine.order

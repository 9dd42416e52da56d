"""Routing by prefix: to the node that has most of a request's hits in its DRAM.

As in Mooncake's conductor and llm-d's prefix-cache scorer, what a node has cached counts against
what it has to do. Here the load is no second term with a weight of its own, but a bound, as in
consistent hashing with bounded loads: cached prefixes decide among the nodes that are not far
above the mean. So hot sessions never pile up on one node, and no weight needs tuning.
"""

from collections.abc import Iterator, Sequence

from scheduler.books import EngineBook, Group
from scheduler.cluster import Cluster
from scheduler.policy import Placement
from scheduler.prefill import PrefillQueue
from scheduler.prefix import PrefixIndex
from scheduler.types import Request, Side

LOAD_FACTOR = 1.25


def choose(loads: Sequence[int], cached: Sequence[int], slack_tokens: int) -> int:
    """The place with the most cached of those within the bound; of equal ones, the least loaded.

    The bound on a place's load is LOAD_FACTOR times the mean, and `slack_tokens` on top of it: at
    low load a single request is far above any mean.
    """
    most_tokens = LOAD_FACTOR * sum(loads) / len(loads) + slack_tokens
    within = [at for at, load in enumerate(loads) if load <= most_tokens]
    return max(within, key=lambda at: (cached[at], -loads[at], -at))


def de_group(cluster: Cluster, index: PrefixIndex, request: Request) -> Group:
    """The DE group with a node that has most of the prefix; within it, DEs are chosen by load."""
    groups = [group for group in cluster.groups.values() if group.side is Side.DE]
    found = index.cached_blocks(request)
    cached = [max(found.get(node, 0) for node in group.nodes) for group in groups]
    loads = [group.load_tokens for group in groups]
    return groups[choose(loads, cached, cluster.spec.beta_tokens)]


class PrefillNode:
    """A node's PEs, and the requests that wait for one of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.engines: list[EngineBook] = []
        self.queue = PrefillQueue()
        self.queued_tokens = 0

    @property
    def load_tokens(self) -> int:
        """Tokens of all that it serves or will have to."""
        return self.queued_tokens + sum(engine.tokens for engine in self.engines)


class AffinityQueue:
    """Requests that wait for a PE, each in the queue of the node that its prefix chose.

    On a node, Algorithm 1 places them in order of arrival, as `PrefillQueue` does for all. The
    slack is beta, what one GPU works off in 5 s.
    """

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._nodes: dict[str, PrefillNode] = {}
        self._waiting: dict[int, tuple[Request, PrefillNode]] = {}

    def push(self, cluster: Cluster, request: Request) -> None:
        """Choose a node for an arrived request."""
        nodes = list(self._of(cluster).values())
        loads = [node.load_tokens for node in nodes]
        found = self._index.cached_blocks(request)
        cached = [found.get(node.name, 0) for node in nodes]
        node = nodes[choose(loads, cached, cluster.spec.beta_tokens)]
        node.queued_tokens += request.prompt_tokens
        self._waiting[request.id] = request, node
        node.queue.push(request)

    def drop(self, request_id: int) -> None:
        """Forget a request that ended while it waited."""
        if request_id in self._waiting:
            self._leave(request_id).queue.drop(request_id)

    def fetch(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """Place what waits for the group's nodes, on each until all its PEs are overloaded."""
        nodes = self._of(cluster)
        for name in cluster.groups[group].nodes:
            for placement in nodes[name].queue.place(cluster, nodes[name].engines):
                self._leave(placement.request_id)
                yield placement

    def _leave(self, request_id: int) -> PrefillNode:
        request, node = self._waiting.pop(request_id)
        node.queued_tokens -= request.prompt_tokens
        return node

    def _of(self, cluster: Cluster) -> dict[str, PrefillNode]:
        """The cluster's prefill nodes, in natural order."""
        if not self._nodes:
            for engine in cluster.on(Side.PE):
                name = engine.node.name
                self._nodes.setdefault(name, PrefillNode(name)).engines.append(engine)
        return self._nodes

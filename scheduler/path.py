"""Which side's storage NIC reads a request's hits (DualPath section 6.4)."""

from math import lcm

from scheduler.books import NodeBook
from scheduler.cluster import Cluster
from scheduler.errors import SchedulerError
from scheduler.types import ALPHA_S, ReadExtent, Request, Side


def shorter_queue(cluster: Cluster, pe: str, de: str) -> Side:
    """The side whose node is expected to have less left to read.

    Where that is equal, as it is where both are expected to have finished, the side whose node was
    given less to read so far. The paper says neither how old a queue's length may be nor what a
    tie does; docs/scheduling.md has what other rules cost.
    """
    pe_node, de_node = cluster.node_of(pe), cluster.node_of(de)
    pe_rank = left_tokens(cluster, pe_node), pe_node.read_tokens
    de_rank = left_tokens(cluster, de_node), de_node.read_tokens
    return Side.PE if pe_rank <= de_rank else Side.DE


def left_tokens(cluster: Cluster, node: NodeBook) -> float:
    """A node's read queue, less what its storage NIC should have read since it was counted."""
    read_tokens = (cluster.now_s - node.counted_s) * cluster.spec.alpha_tokens / ALPHA_S
    return max(0.0, node.read_queue_tokens - read_tokens)


def in_turn(cluster: Cluster, number: int) -> Side:
    """One side after the other, for whoever counts requests and looks at no load.

    After as many numbers as there are pairs of engines the other side begins: else the sides would
    be in step with engines that come in turn too, and some nodes would never read.
    """
    pairs = lcm(*(len(cluster.on(side)) for side in Side))
    begun, pair = divmod(number, pairs)
    return Side.DE if (begun + pair) % 2 else Side.PE


def whole(cluster: Cluster, request: Request, side: Side) -> tuple[ReadExtent, ...]:
    """All of the request's hit blocks on one side; nothing if it has none."""
    blocks = request.hit_tokens // cluster.spec.block_tokens
    return (ReadExtent(side, 0, blocks),) if blocks else ()


def check(cluster: Cluster, request: Request, reads: tuple[ReadExtent, ...]) -> None:
    """Raise SchedulerError unless the reads cover each hit block exactly once."""
    if not isinstance(reads, tuple):
        raise _malformed(request, reads)
    for read in reads:
        if not isinstance(read, ReadExtent) or type(read.side) is not Side:
            raise _malformed(request, reads)
        if not type(read.first) is type(read.count) is type(read.cached) is int:
            raise _malformed(request, reads)
    at = 0
    for read in sorted(reads, key=lambda read: read.first):
        if read.first != at or read.count < 1:
            break
        if not 0 <= read.cached <= read.count:
            raise SchedulerError(
                f"a read of {read.count} blocks of request {request.id} expects {read.cached} of "
                "them in DRAM; correct the policy"
            )
        at += read.count
    else:
        if at * cluster.spec.block_tokens == request.hit_tokens:
            return
    raise SchedulerError(
        f"the reads {reads} of request {request.id} do not cover its "
        f"{request.hit_tokens // cluster.spec.block_tokens} hit blocks once each; "
        "correct the policy"
    )


def _malformed(request: Request, reads: object) -> SchedulerError:
    return SchedulerError(
        f"the reads {reads!r} of request {request.id} are no tuple of "
        "ReadExtent(Side.PE or Side.DE, first, count); correct the policy"
    )

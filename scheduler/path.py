"""Which side's storage NIC reads a request's hits (DualPath section 6.4)."""

from scheduler.cluster import Cluster
from scheduler.errors import SchedulerError
from scheduler.types import ReadExtent, Request, Side


def shorter_queue(cluster: Cluster, pe: str, de: str) -> Side:
    """The side whose node has fewer tokens to read; if equal, the one that last read longer ago.

    The paper leaves ties open; always taking one side would leave the other idle at low load.
    """
    pe_node, de_node = cluster.node_of(pe), cluster.node_of(de)
    pe_tokens, de_tokens = pe_node.read_queue_tokens, de_node.read_queue_tokens
    if pe_tokens != de_tokens:
        return Side.PE if pe_tokens < de_tokens else Side.DE
    return Side.PE if pe_node.last_read <= de_node.last_read else Side.DE


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
        if not type(read.first) is type(read.count) is int:
            raise _malformed(request, reads)
    at = 0
    for read in sorted(reads, key=lambda read: read.first):
        if read.first != at or read.count < 1:
            break
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

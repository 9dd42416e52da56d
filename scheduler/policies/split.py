"""`split`: as `dualpath`, but both sides may read a part of one request at the same time.

The paper leaves it as future work. Half of a read is there in half the time, which is what a first
token waits for while storage NICs have nothing else to do.
"""

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.policies.dualpath import DualPath
from scheduler.types import ReadExtent, Request, Side

# Each read takes a place among those in flight, room in a second DRAM, and two more messages.
LEAST_GAIN = 0.2  # of the time until the hits are there
LEAST_PART_TOKENS = 1024


class Split(DualPath):
    """Cuts the hits so that both parts are expected at the same time."""

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """A part on either side, or all on one where a cut would not be worth it.

        Times are in tokens that a storage NIC reads. The DE side reads the prompt's beginning: so
        what the PE sends it is one piece, the rest.
        """
        pe_left = path.left_tokens(cluster, cluster.node_of(pe))
        de_left = path.left_tokens(cluster, cluster.node_of(de))
        whole = min(pe_left, de_left) + request.hit_tokens
        cut = (pe_left + de_left + request.hit_tokens) / 2
        least_part = cut - max(pe_left, de_left)
        if whole - cut < LEAST_GAIN * whole or least_part < LEAST_PART_TOKENS:
            return super().reads(cluster, request, pe, de)
        block_tokens = cluster.spec.block_tokens
        blocks, first = request.hit_tokens // block_tokens, round((cut - de_left) / block_tokens)
        return ReadExtent(Side.DE, 0, first), ReadExtent(Side.PE, first, blocks - first)


POLICY = Split

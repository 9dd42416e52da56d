"""Which blocks of which chains a node keeps in a DRAM cache, and which give way.

A node keeps its cache by this rule, and a policy that routes by prefix keeps the same books of
every node from what it decided: nodes say nothing of their caches. Blocks are named by chain and
number, and a chain never changes, so nothing that is kept can be out of date.
"""

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from scheduler.cluster import Cluster
from scheduler.ranges import Ranges
from scheduler.types import Extent, ReadExtent, Request, Side

# How many times as long as a chain took to come back another must be idle to give way to it.
PATIENCE = 1.5


class Kept:
    """So many blocks at most, by chain.

    The chain that was used longest ago gives way, but only to one that comes back sooner than it
    has been idle. Least recently used alone would keep nothing here: agents that return in the same
    order, more of them than fit, each find that the others have just pushed them out. It is the
    comparison of LIRS (Jiang and Zhang, SIGMETRICS 2002), of chains in place of pages.

    A chain gives way from its end, so that what remains is a prefix: of two contexts that share a
    beginning, the other may still hit it. When a chain was used is known of each that ever was,
    kept or not: two numbers each.
    """

    def __init__(self, capacity_blocks: int) -> None:
        self.capacity_blocks = capacity_blocks
        self.blocks = 0
        self._chains: OrderedDict[int, Ranges] = OrderedDict()  # the one used longest ago first
        self._uses = 0
        self._last_use: dict[int, int] = {}  # of each chain, kept or not
        self._came_back: dict[int, int] = {}  # uses of others between its last two, and its own

    def use(self, chains: Iterable[int]) -> None:
        """A turn uses these chains; to be said once a turn."""
        if not self.capacity_blocks:
            return
        self._uses += 1
        for chain in chains:
            if chain in self._last_use:
                self._came_back[chain] = self._uses - self._last_use[chain]
            self._last_use[chain] = self._uses
            if chain in self._chains:
                self._chains.move_to_end(chain)

    def __contains__(self, chain: int) -> bool:
        """Whether anything of a chain is here."""
        return chain in self._chains

    def lacking(self, extents: Iterable[Extent]) -> list[Extent]:
        """What of these extents is not here."""
        lacking = []
        for extent in extents:
            ranges = self._chains.get(extent.chain)
            if ranges is None:
                lacking.append(extent)
                continue
            for first, last in ranges.lacking(extent.first, extent.first + extent.count):
                lacking.append(Extent(extent.chain, first, last - first))
        return lacking

    def add(self, extent: Extent) -> tuple[list[Extent], list[Extent]]:
        """Keep what of an extent is not here, as far as there is room or others give way.

        Returns what is new, and what gave way. A chain never gives way to itself.
        """
        if not self.capacity_blocks:
            return [], []
        new = self.lacking([extent])
        ranges = self._chains.setdefault(extent.chain, Ranges())
        wanted = sum(part.count for part in new)
        gone = list(self._give_way(extent.chain, self.blocks + wanted - self.capacity_blocks))
        added = []
        for part in new:
            count = min(part.count, self.capacity_blocks - self.blocks)
            if count > 0:
                ranges.add(part.first, part.first + count)
                self.blocks += count
                added.append(Extent(part.chain, part.first, count))
        if not ranges.count:
            del self._chains[extent.chain]
        return added, gone

    def drop(self, chain: int) -> list[Extent]:
        """Keep nothing of a chain any more; returns what was kept."""
        ranges = self._chains.pop(chain, Ranges())
        self.blocks -= ranges.count
        return [
            Extent(chain, first, last - first)
            for first, last in zip(ranges.firsts, ranges.lasts, strict=True)
        ]

    def _give_way(self, comer: int, count: int) -> Iterator[Extent]:
        """Take so many blocks of chains that were idle for long, or all that such have."""
        idle_since = self._uses - PATIENCE * self._came_back.get(comer, sys.maxsize)
        while count > 0:
            chain, ranges = next(iter(self._chains.items()))
            if chain == comer or self._last_use.get(chain, 0) >= idle_since:
                return
            first, last = ranges.cut(count)
            if not ranges.count:
                del self._chains[chain]
            count -= last - first
            self.blocks -= last - first
            yield Extent(chain, first, last - first)


class PrefixIndex:
    """What each node should have in its DRAM cache, by what was decided.

    Approximate: a node caches when it has read, and a turn that fails may leave nothing.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, Kept] = {}
        self._holders: dict[int, dict[str, None]] = {}  # of each chain, the nodes that have some

    def cached_blocks(self, request: Request) -> dict[str, int]:
        """Hit blocks of a request that nodes have, by node; most nodes have none."""
        nodes = dict.fromkeys(
            node for extent in request.context for node in self._holders.get(extent.chain, ())
        )
        hits = sum(extent.count for extent in request.context)
        return {
            node: hits - sum(e.count for e in self._nodes[node].lacking(request.context))
            for node in nodes
        }

    def decided(
        self, cluster: Cluster, request: Request, pe: str, de: str, reads: Sequence[ReadExtent]
    ) -> None:
        """A node caches the blocks that it reads; the DE's also those that the turn makes."""
        nodes = {Side.PE: cluster.node_of(pe).name, Side.DE: cluster.node_of(de).name}
        for side in {Side.DE, *(read.side for read in reads)}:
            self._kept(cluster, nodes[side]).use(chains_of(request))
        for read in reads:
            for extent in cut(request.context, read.first, read.count):
                self._add(cluster, nodes[read.side], extent)
        block_tokens = cluster.spec.block_tokens
        first, last = request.hit_tokens // block_tokens, request.context_tokens // block_tokens
        if last > first:
            self._add(cluster, nodes[Side.DE], Extent(request.chain, first, last - first))

    def _add(self, cluster: Cluster, node: str, extent: Extent) -> None:
        kept = self._kept(cluster, node)
        added, gone = kept.add(extent)
        for each in added:
            self._holders.setdefault(each.chain, {})[node] = None
        for chain in dict.fromkeys(each.chain for each in gone):
            if chain not in kept:
                self._holders[chain].pop(node)
                if not self._holders[chain]:
                    del self._holders[chain]

    def _kept(self, cluster: Cluster, node: str) -> Kept:
        kept = self._nodes.get(node)
        if kept is None:
            blocks = cluster.spec.dram_cache_tokens // cluster.spec.block_tokens
            kept = self._nodes[node] = Kept(blocks)
        return kept


def chains_of(request: Request) -> Iterable[int]:
    """The chains that a turn uses, each once: those of its prefix, and the one it continues."""
    return dict.fromkeys([*(extent.chain for extent in request.context), request.chain])


def cut(context: Iterable[Extent], first: int, count: int) -> tuple[Extent, ...]:
    """The extents of a prompt's blocks `first` to `first + count`."""
    wanted = []
    for extent in context:
        start = max(extent.first, first)
        end = min(extent.first + extent.count, first + count)
        if start < end:
            wanted.append(Extent(extent.chain, start, end - start))
    return tuple(wanted)

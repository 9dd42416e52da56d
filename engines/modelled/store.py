"""The modelled store: which blocks of which chain are kept, and nothing of what is in them."""

from collections.abc import Sequence

from engines.errors import KvMissing
from engines.kv import Extent, Span


class ExtentStore:
    """Implements the seam `Store` as a dictionary of extents; the medium is never the limit.

    What limits storage is the storage host's link (testbed/worlds/layout.py).
    """

    def __init__(self) -> None:
        self._held: dict[int, list[tuple[int, int]]] = {}

    def hold(self, chain: int, first: int, last: int) -> None:
        """Keep blocks `first` to `last` of a chain; neighbours join."""
        spans = self._held.setdefault(chain, [])
        if spans and spans[-1][1] == first:  # a chain grows at its end
            spans[-1] = (spans[-1][0], last)
            return
        joined: list[tuple[int, int]] = []
        for start, end in sorted([*spans, (first, last)]):
            if joined and joined[-1][1] >= start:
                joined[-1] = (joined[-1][0], max(joined[-1][1], end))
            else:
                joined.append((start, end))
        self._held[chain] = joined

    async def read(self, extents: Sequence[Extent], into: Span) -> bytes:
        """There are no digests; KvMissing, naming chain and block, if one is not held."""
        for extent in extents:
            self._require(extent)
        return b""

    async def append(self, extent: Extent, source: Span, digests: bytes) -> None:
        """Keep the blocks."""
        self.hold(extent.chain, extent.first, extent.first + extent.count)

    def _require(self, extent: Extent) -> None:
        at, last = extent.first, extent.first + extent.count
        for start, end in self._held.get(extent.chain, ()):
            if start <= at < end:
                at = end
            if at >= last:
                return
        raise KvMissing(
            f"block {at} of chain {extent.chain} is not in storage; "
            "it was never persisted, or the workload names another opening"
        )

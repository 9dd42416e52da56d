"""The store's seam: the storage medium alone. What crosses the network is the transport's."""

from collections.abc import Sequence
from typing import Protocol

from engines.kv import Extent, Span


class Store(Protocol):
    """Blocks by chain and number, each with its digest."""

    async def read(self, extents: Sequence[Extent], into: Span) -> bytes:
        """Read extents one after the other into a span of a local region; returns digests.

        Raises KvMissing, naming chain and block, if one is not held.
        """
        ...

    async def append(self, extent: Extent, source: Span, digests: bytes) -> None:
        """Keep the blocks of a local span as `extent`; returns once a restart will find them."""
        ...

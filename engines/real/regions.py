"""Registered memory of a host: what its transport reads from, writes to, copies and seals."""

import numpy as np

from engines.errors import KvDigestMismatch, TransferError
from engines.kv import Span
from engines.real import frames
from engines.real.digests import BlockKeys, digest_blocks, first_difference
from engines.real.frames import Order
from engines.real.pool import KvPool
from engines.seams.transport import Write


class Regions:
    """Pools of one host by name; without `verify`, `check` accepts everything."""

    def __init__(self, host: str, keys: BlockKeys, verify: bool) -> None:
        self._host = host
        self._keys = keys
        self._verify = verify
        self._pools: dict[str, KvPool] = {}

    def register(self, pool: KvPool) -> None:
        """Let peers write into this region, and our writes read from it."""
        if pool.name in self._pools:
            raise TransferError(f"region {pool.name!r} is registered twice on {self._host}")
        self._pools[pool.name] = pool

    def pool(self, region: str) -> KvPool:
        """The registered region; TransferError if there is none of that name."""
        try:
            return self._pools[region]
        except KeyError:
            raise TransferError(
                f"{self._host} has no region {region!r}, only {sorted(self._pools)}"
            ) from None

    def payload(self, write: Write) -> tuple[memoryview | bytes, Order]:
        """A write's bytes and how they lie; may be a view of the source, which then must stay.

        Raises TransferError for spans that do not fit each other, or their region.
        """
        source, target = write.source, write.target
        pool = self.pool(source.region)
        layout = pool.layout
        for span in (source, target):
            frames.check_span(layout, span)
        size = layout.span_bytes(source)
        if size != layout.span_bytes(target):
            raise TransferError(
                f"write of request {write.request}: {source} holds {size} bytes, {target} "
                f"{layout.span_bytes(target)}; spans must cover the same tokens and layers"
            )
        if size == 0:
            return b"", Order.ROWS
        blocks_here = frames.in_place(layout, source)
        if frames.in_place(layout, target) and (blocks_here or layout.rows_per_block == 1):
            return pool.gather(source), Order.BLOCKS
        data = pool.gather(source)
        if blocks_here and layout.rows_per_block > 1:
            shape = (-1, layout.layers, layout.rows_per_block, layout.width)
            blocks = np.frombuffer(data, dtype=np.float32).reshape(shape)
            data = np.ascontiguousarray(blocks.swapaxes(1, 2)).data.cast("B")
        return data, Order.ROWS

    def copy(self, source: Span, target: Span) -> None:
        """Copy whole Full Blocks between regions of this host."""
        into, of = self.pool(target.region).view(target), self.pool(source.region).view(source)
        if into is None or of is None or len(into) != len(of):
            raise TransferError(
                f"{source} and {target} are not the same number of whole Full Blocks; "
                "only these are copied within a host"
            )
        into[:] = of

    def seal(self, span: Span, content: bytes, first_block: int) -> bytes:
        """Digests, 8 bytes a block, of whole blocks: each binds the block's key and its bytes."""
        pool = self.pool(span.region)
        view = pool.view(span) if span.last > span.first else memoryview(b"")
        if view is None:
            raise TransferError(f"{span} is not whole Full Blocks; only these have digests")
        size = pool.layout.block_bytes
        keys = self._keys.keys(content, first_block, len(view) // size)
        return digest_blocks(view, size, keys)

    def check(self, span: Span, content: bytes, first_block: int, digests: bytes) -> None:
        """Raise KvDigestMismatch, naming the block, unless `seal` would give `digests`."""
        if not self._verify:
            return
        found = self.seal(span, content, first_block)
        if found == digests:
            return
        if len(found) != len(digests):
            raise KvDigestMismatch(
                f"{len(digests)} bytes of digests came for {len(found) // 8} blocks of {span}"
            )
        block = first_block + first_difference(found, digests)
        raise KvDigestMismatch(
            f"block {block} of the prompt, in region {span.region!r} of {self._host}, is not what "
            "its key and digest say; it was corrupted or put in the wrong place"
        )

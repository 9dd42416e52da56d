"""Registered memory of a host in the emulated world: KV in the Full Block layout.

A pool is `[block, layer, row, width]` float32: a Full Block is `[layer, rows, bytes]`, and its
Layer Blocks laid end to end are the Full Block (DualPath appendix A.5). One row is one emulated
token, which stands for `token_scale` real ones.
"""

import mmap

import numpy as np
from numpy.typing import NDArray

from engines.errors import TransferError
from engines.kv import Span
from engines.layout import FLOAT_BYTES, KvLayout

Index = NDArray[np.intp]


class KvPool:
    """One pre-faulted region; spans become views where contiguous, gathers where not."""

    def __init__(self, name: str, layout: KvLayout, capacity_tokens: int) -> None:
        self.name = name
        self.layout = layout
        self.blocks = capacity_tokens // layout.block_tokens
        shape = (self.blocks, layout.layers, layout.rows_per_block, layout.width)
        length = max(1, self.blocks * layout.block_bytes)
        # Populated now: a first touch inside the run costs seven times a warm one.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
        self._memory = mmap.mmap(-1, length, flags=flags)
        self.array: NDArray[np.float32] = np.frombuffer(
            self._memory, dtype=np.float32, count=self.blocks * layout.block_bytes // FLOAT_BYTES
        ).reshape(shape)
        self._bytes = memoryview(self._memory)[: self.blocks * layout.block_bytes]
        self._rows_per_block, self._block_bytes = layout.rows_per_block, layout.block_bytes

    def view(self, span: Span) -> memoryview | None:
        """The span's bytes in place, or None if they are not contiguous."""
        self._inside(span)
        layout = self.layout
        if span.layer_first != 0 or span.layer_last != layout.layers:
            return None
        first, odd = divmod(layout.rows(span.first), self._rows_per_block)
        last, more = divmod(layout.rows(span.last), self._rows_per_block)
        if odd or more:
            return None
        start, size = span.slot // layout.block_tokens, self._block_bytes
        return self._bytes[(start + first) * size : (start + last) * size]

    def gather(self, span: Span) -> memoryview:
        """The span's bytes, `[rows, layers, width]` unless whole Full Blocks; may be a view."""
        view = self.view(span)
        if view is not None:
            return view
        return _bytes(np.ascontiguousarray(self.array[self._index(span)]))

    def scatter(self, span: Span, data: memoryview | bytes) -> None:
        """Put gathered bytes into a span that is not contiguous here."""
        layers = span.layer_last - span.layer_first
        rows = self.layout.rows(span.last) - self.layout.rows(span.first)
        values = np.frombuffer(data, dtype=np.float32)
        self.array[self._index(span)] = values.reshape(rows, layers, self.layout.width)

    def _index(self, span: Span) -> tuple[slice | Index, slice, int | Index]:
        layout, per_block = self.layout, self.layout.rows_per_block
        self._inside(span)
        layers = slice(span.layer_first, span.layer_last)
        block, first, last = (
            span.slot // layout.block_tokens,
            layout.rows(span.first),
            layout.rows(span.last),
        )
        if per_block == 1:
            return slice(block + first, block + last), layers, 0
        rows = np.arange(first, last)
        return block + rows // per_block, layers, rows % per_block

    def _inside(self, span: Span) -> None:
        end = span.slot + span.last
        if (
            span.first < 0
            or span.last < span.first
            or span.slot < 0
            or (end > self.blocks * self.layout.block_tokens)
        ):
            raise TransferError(
                f"{span} lies outside region {self.name!r} of {self.blocks} blocks; "
                "the slot that it belongs to was never taken"
            )


def _bytes(array: NDArray[np.float32]) -> memoryview:
    return array.reshape(-1).data.cast("B") if array.size else memoryview(b"")

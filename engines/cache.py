"""A node's DRAM cache: Full Blocks that it read or persisted, so that it need not read them again.

A hit is copied into the turn's slot, so nothing that the cache keeps is ever in use, and blocks
may give way at any time. Copies stand for pages that change hands: engines page their DRAM, and
what they pay is the move into HBM. So copies take no time and no bandwidth here.
"""

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from engines.config import KvShape
from engines.errors import KvDigestMismatch
from engines.kv import Extent, Span
from engines.seams.transport import DIGEST_BYTES, Transport
from scheduler.prefix import Kept
from scheduler.ranges import Ranges


class Pages:
    """Blocks of a region, handed out in pieces as they are free."""

    def __init__(self, count: int) -> None:
        self._free = Ranges()
        self._free.add(0, count)

    def take(self, count: int) -> Iterator[tuple[int, int]]:
        """Pieces of together `count` blocks, which must be free."""
        while count:
            first, last = self._free.cut(count)
            count -= last - first
            yield first, last - first

    def give(self, first: int, count: int) -> None:
        """Free a piece."""
        self._free.add(first, first + count)


class Run(NamedTuple):
    """Neighbouring blocks of a chain, from `first` on, that lie in neighbouring pages."""

    first: int
    blocks: int
    page: int
    digests: bytes


class DramCache:
    """Blocks by chain and number in the region `cache`; which ones stay is `Kept`'s to say."""

    def __init__(self, cache_tokens: int, kv: KvShape, transport: Transport) -> None:
        self._kept = Kept(cache_tokens // kv.block_tokens)
        self._pages = Pages(self._kept.capacity_blocks)
        self._runs: dict[int, list[Run]] = {}  # of a chain, by first
        self._kv = kv
        self._transport = transport

    def use(self, chains: Iterable[int]) -> None:
        """A turn that uses these chains was assigned to the node."""
        self._kept.use(chains)

    def lacking(self, extents: Iterable[Extent]) -> list[Extent]:
        """What would have to be read of these."""
        return self._kept.lacking(extents)

    def fetch(self, extents: Sequence[Extent], into: Span, content: bytes) -> list[Extent]:
        """Copy what is here into a prompt's slot, check it, and say what is lacking.

        Raises KvDigestMismatch, and drops that chain's blocks, if one is not what it was.
        """
        lacking = self.lacking(extents)
        if not self._kept.blocks:
            return lacking
        for extent in extents:
            for run in self._within(extent):
                target = self._span(into, run.first, run.blocks)
                self._transport.copy(self._page_span(run.page, run.blocks), target)
                try:
                    self._transport.check(target, content, run.first, run.digests)
                except KvDigestMismatch:
                    for each in self._kept.drop(extent.chain):
                        self._free(each)
                    raise
        return lacking

    def keep(self, extents: Iterable[Extent], source: Span, digests: bytes) -> None:
        """Copy blocks that lie in a span, one extent after the other, and that are checked."""
        if not self._kept.capacity_blocks:
            return
        at, block_tokens = source.first, self._kv.block_tokens
        for extent in extents:
            added, gone = self._kept.add(extent)
            for each in gone:
                self._free(each)
            for part in added:
                skipped = part.first - extent.first + (at - source.first) // block_tokens
                span = source.tokens(source.first + skipped * block_tokens, source.last)
                self._put(part, span, digests[skipped * DIGEST_BYTES :])
            at += extent.count * block_tokens

    def _put(self, extent: Extent, source: Span, digests: bytes) -> None:
        runs, at = self._runs.setdefault(extent.chain, []), 0
        for page, count in self._pages.take(extent.count):
            first = source.first + at * self._kv.block_tokens
            piece = source.tokens(first, first + count * self._kv.block_tokens)
            self._transport.copy(piece, self._page_span(page, count))
            digests_here = digests[at * DIGEST_BYTES : (at + count) * DIGEST_BYTES]
            insort(runs, Run(extent.first + at, count, page, digests_here))
            at += count

    def _free(self, extent: Extent) -> None:
        """Give back the pages of blocks that gave way."""
        last = extent.first + extent.count
        left = []
        for run in self._runs.pop(extent.chain):
            first, end = max(run.first, extent.first), min(run.first + run.blocks, last)
            if first >= end:
                left.append(run)
                continue
            self._pages.give(run.page + first - run.first, end - first)
            left += [
                part for part in (_part(run, run.first, first), _part(run, end)) if part.blocks
            ]
        if left:
            self._runs[extent.chain] = left

    def _within(self, extent: Extent) -> Iterator[Run]:
        """The runs of an extent's chain, cut to it."""
        runs, last = self._runs.get(extent.chain, []), extent.first + extent.count
        for run in runs:
            part = _part(run, max(run.first, extent.first), min(run.first + run.blocks, last))
            if part.blocks > 0:
                yield part

    def _page_span(self, page: int, count: int) -> Span:
        tokens = self._kv.block_tokens
        return Span("cache", page * tokens, 0, count * tokens, 0, self._kv.layers)

    def _span(self, prompt: Span, first: int, count: int) -> Span:
        tokens = self._kv.block_tokens
        return prompt.tokens(first * tokens, (first + count) * tokens)


def _part(run: Run, first: int, last: int | None = None) -> Run:
    """A run's blocks `first` to `last`, as far as these are its own."""
    last = run.first + run.blocks if last is None else last
    skipped, count = first - run.first, last - first
    digests = run.digests[skipped * DIGEST_BYTES : (skipped + count) * DIGEST_BYTES]
    return Run(first, count, run.page + skipped, digests)

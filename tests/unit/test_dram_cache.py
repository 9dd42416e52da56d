"""A node's DRAM cache against one of single blocks: what stays, what gives way, and its bytes."""

import pytest
from fakes import BLOCK, KV, FakeTransport, Memory, Network, digest, text
from hypothesis import given
from hypothesis import strategies as st

from engines.cache import DramCache, Pages
from engines.errors import KvDigestMismatch
from engines.kv import Extent, Span
from scheduler.prefix import Kept, cut
from scheduler.ranges import Ranges

CHAINS, LONGEST = 4, 24
EXTENTS = st.builds(
    lambda chain, first, count: Extent(chain, first, count),
    st.integers(1, CHAINS), st.integers(0, LONGEST - 1), st.integers(1, LONGEST),
)  # fmt: skip


class SlowCache:
    """The rule, block by block."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.chains: dict[int, set[int]] = {}
        self.order: list[int] = []  # kept chains, the one used longest ago first
        self.uses: list[int] = []  # the chain of each use

    def size(self) -> int:
        return sum(len(blocks) for blocks in self.chains.values())

    def use(self, chain: int) -> None:
        self.uses.append(chain)
        if chain in self.order:
            self.order.remove(chain)
            self.order.append(chain)

    def add(self, extent: Extent) -> None:
        if extent.chain not in self.order:
            self.order.append(extent.chain)
        blocks = self.chains.setdefault(extent.chain, set())
        new = sorted(set(range(extent.first, extent.first + extent.count)) - blocks)
        while self.size() + len(new) > self.capacity and self.gives_way(extent.chain):
            oldest = self.chains[self.order[0]]
            oldest.remove(max(oldest))
            if not oldest:
                del self.chains[self.order.pop(0)]
        blocks.update(new[: self.capacity - self.size()])
        if not blocks:
            del self.chains[extent.chain]
            self.order.remove(extent.chain)

    def gives_way(self, comer: int) -> bool:
        """Whether the first in order was idle for one and a half times as long as it took."""
        at = [number for number, chain in enumerate(self.uses, 1) if chain == comer]
        last = [number for number, chain in enumerate(self.uses, 1) if chain == self.order[0]]
        idle = len(self.uses) - (last[-1] if last else 0)
        return self.order[0] != comer and len(at) > 1 and idle > 1.5 * (at[-1] - at[-2])

    def held(self) -> set[tuple[int, int]]:
        return {(chain, block) for chain, blocks in self.chains.items() for block in blocks}


def each(extents: list[Extent]) -> list[tuple[int, int]]:
    return [(e.chain, block) for e in extents for block in range(e.first, e.first + e.count)]


@given(st.integers(0, 60), st.lists(st.tuples(st.booleans(), EXTENTS), max_size=40))
def test_it_keeps_what_the_slow_one_keeps(capacity: int, steps: list[tuple[bool, Extent]]) -> None:
    kept, slow = Kept(capacity), SlowCache(capacity)
    for is_use, extent in steps:
        before = slow.held()
        if is_use:
            kept.use([extent.chain])
            slow.use(extent.chain)
        else:
            added, gone = kept.add(extent)
            slow.add(extent)
            assert sorted(each(added)) == sorted(slow.held() - before)
            assert sorted(each(gone)) == sorted(before - slow.held())
        assert kept.blocks == slow.size() <= capacity
        everything = [Extent(chain, 0, 2 * LONGEST) for chain in range(1, CHAINS + 1)]
        lacking = each(kept.lacking(everything))
        assert len(set(lacking)) == len(lacking)
        assert set(each(everything)) - set(lacking) == slow.held()


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=20))
def test_ranges_are_disjoint_joined_and_in_order(adds: list[tuple[int, int]]) -> None:
    ranges, blocks = Ranges(), set[int]()
    for first, count in adds:
        for start, end in ranges.lacking(first, first + count):
            ranges.add(start, end)
        blocks |= set(range(first, first + count))
        assert ranges.count == len(blocks)
        edges = [edge for pair in zip(ranges.firsts, ranges.lasts, strict=True) for edge in pair]
        assert edges == sorted(set(edges))
        assert [b for a, z in zip(ranges.firsts, ranges.lasts, strict=True) for b in range(a, z)] \
            == sorted(blocks)  # fmt: skip


@given(st.lists(st.integers(1, 9), max_size=30))
def test_pages_are_never_handed_out_twice_and_none_is_lost(counts: list[int]) -> None:
    pages, held, free = Pages(40), list[tuple[int, int]](), 40
    for count in counts:
        while count > free:
            first, length = held.pop(len(held) // 2)
            pages.give(first, length)
            free += length
        pieces = list(pages.take(count))
        assert sum(length for _, length in pieces) == count
        held += pieces
        free -= count
        taken = [page for first, length in held for page in range(first, first + length)]
        assert len(set(taken)) == len(taken) == 40 - free and set(taken) <= set(range(40))


class Node:
    """A cache in a node's memory, and a prompt's slot beside it."""

    def __init__(self, blocks: int) -> None:
        self.network = Network()
        self.cache = DramCache(blocks * BLOCK, KV, FakeTransport("n", self.network))
        self.prompt = Span("dram", 0, 0, 60 * BLOCK, 0, KV.layers)

    def rows(self, first: int, count: int) -> Memory:
        return self.network.rows("n", self.prompt.tokens(first * BLOCK, (first + count) * BLOCK))

    def keep(self, extent: Extent, content: bytes) -> None:
        """Blocks come from storage: each has bytes of its own, and its digest."""
        rows = self.rows(extent.first, extent.count)
        for at, row in enumerate(rows):
            row[:] = block_of(extent.chain, extent.first + at)
        digests = b"".join(digest(content, extent.first + n, row) for n, row in enumerate(rows))
        span = self.prompt.tokens(extent.first * BLOCK, (extent.first + extent.count) * BLOCK)
        self.cache.keep([extent], span, digests)
        rows[:] = -1


def block_of(chain: int, number: int) -> int:
    return chain * 1000 + number


@given(st.lists(st.tuples(st.booleans(), EXTENTS), max_size=30))
def test_what_is_fetched_is_what_was_kept(steps: list[tuple[bool, Extent]]) -> None:
    node, content = Node(30), text(1, 60 * BLOCK)
    for is_fetch, extent in steps:
        if not is_fetch:
            node.keep(extent, content)
            continue
        rows = node.rows(extent.first, extent.count)
        rows[:] = -1
        lacking = {block for _, block in each(node.cache.fetch([extent], node.prompt, content))}
        for at, row in enumerate(rows):
            block = extent.first + at
            wanted = -1 if block in lacking else block_of(extent.chain, block)
            assert (row == wanted).all()


def test_a_damaged_block_is_found_and_its_chain_forgotten() -> None:
    node, content = Node(30), text(1, 60 * BLOCK)
    node.keep(Extent(7, 0, 4), content)
    node.keep(Extent(8, 4, 4), content)
    node.network.rows("n", Span("cache", 0, 0, 30 * BLOCK, 0, KV.layers))[27, 0] += 1
    both = [Extent(7, 0, 4), Extent(8, 4, 4)]
    with pytest.raises(KvDigestMismatch):
        node.cache.fetch(both, node.prompt, content)
    assert node.cache.lacking(both) == [Extent(7, 0, 4)]
    node.keep(Extent(7, 0, 4), content)
    assert node.cache.fetch(both, node.prompt, content) == []


def test_a_block_of_another_place_or_sequence_is_found() -> None:
    node, content = Node(30), text(1, 60 * BLOCK)
    node.keep(Extent(7, 0, 4), content)
    other = text(2, 60 * BLOCK)
    with pytest.raises(KvDigestMismatch):
        node.cache.fetch([Extent(7, 0, 4)], node.prompt, other)


def hit_blocks(kept: Kept, sessions: int, rounds: int) -> int:
    """Of the last round, when sessions of 10 blocks return in the same order, all over."""
    hits = 0
    for number in range(rounds):
        for session in range(sessions):
            extent = Extent(session, 0, 10)
            kept.use([session])
            lacking = sum(each.count for each in kept.lacking([extent]))
            hits += 10 - lacking if number == rounds - 1 else 0
            kept.add(extent)
    return hits


@pytest.mark.parametrize(("capacity", "hits"), [(0, 0), (30, 30), (45, 45), (100, 100), (150, 100)])
def test_sessions_that_return_in_order_hit_as_much_as_fits(capacity: int, hits: int) -> None:
    assert hit_blocks(Kept(capacity), sessions=10, rounds=4) == hits


def test_sessions_that_are_over_give_way_to_those_that_return() -> None:
    kept = Kept(40)
    hit_blocks(kept, sessions=4, rounds=3)
    for number in range(6):
        for session in range(10, 14):
            kept.use([session])
            kept.add(Extent(session, 0, 10))
        if number == 0:  # nobody knows yet whether they will return
            assert sum(e.count for e in kept.lacking([Extent(10, 0, 10)])) == 10
    assert not kept.lacking(Extent(session, 0, 10) for session in range(10, 14))


def test_a_shared_beginning_stays_while_what_follows_it_comes_and_goes() -> None:
    kept = Kept(20)
    for session in range(30):
        kept.use([100, session % 6])
        kept.add(Extent(100, 0, 8))
        kept.add(Extent(session % 6, 8, 6))
    assert kept.lacking([Extent(100, 0, 8)]) == []
    assert kept.blocks == 20


def test_cut_takes_the_extents_of_a_prompts_blocks() -> None:
    context = (Extent(9, 0, 4), Extent(1, 4, 3), Extent(2, 7, 5))
    assert cut(context, 2, 6) == (Extent(9, 2, 2), Extent(1, 4, 3), Extent(2, 7, 1))
    assert cut(context, 0, 12) == context and cut(context, 12, 1) == ()

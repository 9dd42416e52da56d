"""Policy `split`: where a read is cut, and when it is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.lookup import lookup
from scheduler.policies.split import LEAST_GAIN, LEAST_PART_TOKENS
from scheduler.scheduler import Scheduler
from scheduler.types import (
    Arrived,
    ClusterSpec,
    EngineSpec,
    Fetch,
    NodeReport,
    ReadExtent,
    Request,
    Side,
)

BLOCK = 64
SPEC = ClusterSpec(
    (EngineSpec("p0/0", Side.PE, "p0", "pg", 0), EngineSpec("d0/0", Side.DE, "d0", "dg", 10**9)),
    block_tokens=BLOCK,
    alpha_tokens=3_000_000,  # a storage NIC reads a million tokens a second
    beta_tokens=10**9,
)


def reads(
    blocks: int, pe_queue: int, de_queue: int, policy: str = "split"
) -> tuple[ReadExtent, ...]:
    """Of a request of so many blocks, with so many tokens in either node's queue."""
    scheduler = Scheduler(SPEC, lookup(policy))
    scheduler.handle(Arrived(0.0, Request(1, 0, 0, blocks * BLOCK + 10, blocks * BLOCK, 64)))
    scheduler.handle(Fetch(0.0, "pg", (), (NodeReport("p0", pe_queue, 0),)))
    (decision,) = scheduler.handle(Fetch(0.0, "dg", (), (NodeReport("d0", de_queue, 0),)))
    return decision.reads


def test_idle_nics_read_half_each_and_the_de_side_the_beginning() -> None:
    assert reads(100, 0, 0) == (ReadExtent(Side.DE, 0, 50), ReadExtent(Side.PE, 50, 50))


@pytest.mark.parametrize(("pe_queue", "de_queue", "de_blocks"), [
    (0, 1_280, 40),  # 20 blocks: 60 on the PE side take as long as 20 + 40
    (1_280, 0, 60),
    (1_280, 1_280, 50),
])  # fmt: skip
def test_both_parts_are_there_at_the_same_time(
    pe_queue: int, de_queue: int, de_blocks: int
) -> None:
    assert reads(100, pe_queue, de_queue) == (
        ReadExtent(Side.DE, 0, de_blocks),
        ReadExtent(Side.PE, de_blocks, 100 - de_blocks),
    )


@pytest.mark.parametrize(("blocks", "pe_queue", "de_queue", "side"), [
    (100, 0, 6_400, Side.PE),  # the other side is as long as the whole read
    (100, 6_400, 0, Side.DE),
    (100, 12_800, 12_800, Side.PE),  # both are: half of a read is little of the wait
    (31, 0, 0, Side.PE),  # a part would be less than 1,024 tokens
])  # fmt: skip
def test_what_gains_nothing_from_a_cut_is_read_whole_as_dualpath_would(
    blocks: int, pe_queue: int, de_queue: int, side: Side
) -> None:
    found = reads(blocks, pe_queue, de_queue)
    assert found == (ReadExtent(side, 0, blocks),)
    assert found == reads(blocks, pe_queue, de_queue, "dualpath")


def test_a_request_may_be_cut_from_32_blocks_on() -> None:
    assert len(reads(32, 0, 0)) == 2


@given(st.integers(1, 3_000), st.integers(0, 200_000), st.integers(0, 200_000))
def test_a_cut_is_never_expected_later_than_the_whole(
    blocks: int, pe_queue: int, de_queue: int
) -> None:
    found = reads(blocks, pe_queue, de_queue)
    queues = {Side.PE: pe_queue, Side.DE: de_queue}
    ends = [queues[read.side] + read.count * BLOCK for read in found]
    whole = min(pe_queue, de_queue) + blocks * BLOCK
    assert sum(read.count for read in found) == blocks
    if len(found) == 1:
        assert max(ends) == whole
    else:
        assert max(ends) - min(ends) <= BLOCK  # both at once, as far as blocks allow
        assert max(ends) <= (1 - LEAST_GAIN) * whole + BLOCK
        assert min(read.count for read in found) * BLOCK > LEAST_PART_TOKENS - BLOCK

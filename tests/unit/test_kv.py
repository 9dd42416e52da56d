"""Slots never overlap and always join again; the arithmetic of blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import CapacityError
from engines.kv import Slots, Span, blocks, round_up, storage_of

BLOCK = 8


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 120)), max_size=60), st.integers(0, 200))
def test_slots_never_overlap_and_join_to_one_hole(
    steps: list[tuple[bool, int]], capacity: int
) -> None:
    slots = Slots(capacity, BLOCK)
    held: dict[int, int] = {}
    for take, number in steps:
        if not take and held:
            slot = sorted(held)[number % len(held)]
            del held[slot]
            slots.give(slot)
        elif take and round_up(number, BLOCK) <= slots.capacity and number:
            before = slots.free_tokens
            slot = slots.take(number)
            if slot is None:
                assert slots.free_tokens == before
                continue
            assert slot % BLOCK == 0 and slot >= 0
            end = slot + round_up(number, BLOCK)
            assert end <= capacity
            assert all(end <= at or at + length <= slot for at, length in held.items())
            held[slot] = round_up(number, BLOCK)
        assert slots.free_tokens == capacity // BLOCK * BLOCK - sum(held.values())
    for slot in held:
        slots.give(slot)
    if slots.capacity:
        # Only one hole takes the whole capacity at once.
        assert slots.take(slots.capacity) == 0


def test_the_first_hole_that_fits_is_taken() -> None:
    slots = Slots(5 * BLOCK, BLOCK)
    places = [slots.take(size) for size in (BLOCK, 2 * BLOCK, BLOCK, BLOCK)]
    assert places == [0, 8, 24, 32]
    slots.give(0)
    slots.give(24)
    assert slots.free_tokens == 2 * BLOCK
    assert slots.take(2 * BLOCK) is None  # free, but not in one piece
    assert slots.take(1) == 0


def test_what_can_never_fit_is_an_error_and_what_does_not_fit_now_is_not() -> None:
    slots = Slots(20, BLOCK)  # two whole blocks
    assert slots.take(16) == 0
    assert slots.take(16) is None
    with pytest.raises(CapacityError, match="needs 24 tokens of a memory that holds 16"):
        slots.take(17)


def test_a_slot_is_given_back_once() -> None:
    slots = Slots(20, BLOCK)
    slots.take(16)
    slots.give(0)
    with pytest.raises(KeyError):
        slots.give(0)


@given(st.integers(0, 10_000), st.integers(1, 128))
def test_round_up_is_the_next_boundary(tokens: int, block: int) -> None:
    up = round_up(tokens, block)
    assert up % block == 0 and 0 <= up - tokens < block
    assert blocks(tokens, block) * block <= tokens < (blocks(tokens, block) + 1) * block


def test_a_span_keeps_its_slot_when_its_tokens_or_layers_change() -> None:
    span = Span("hbm", 64, 0, 10, 0, 4)
    assert span.tokens(3, 7) == Span("hbm", 64, 3, 7, 0, 4)
    assert span.layer(2) == Span("hbm", 64, 0, 10, 2, 3)


def test_chains_are_spread_over_storage_hosts() -> None:
    hosts = ["store0", "store1", "store2"]
    assert [storage_of(chain, hosts) for chain in range(4)] == [*hosts, "store0"]

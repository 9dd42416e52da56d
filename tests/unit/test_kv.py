"""Slots never overlap and always join again; the arithmetic of blocks."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import CapacityError
from engines.kv import Slots, Span, address_space, blocks, round_up, storage_of

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
            assert end <= address_space(capacity, BLOCK)
            assert all(end <= at or at + length <= slot for at, length in held.items())
            held[slot] = round_up(number, BLOCK)
        assert slots.free_tokens == capacity // BLOCK * BLOCK - sum(held.values())
    for slot in held:
        slots.give(slot)
    if slots.capacity:
        # Only one hole takes the whole capacity at once.
        assert slots.take(slots.capacity) == 0


def test_the_first_hole_that_fits_is_taken() -> None:
    slots = Slots(4 * BLOCK, BLOCK)  # of six blocks' addresses
    places = [slots.take(size) for size in (BLOCK, 2 * BLOCK, BLOCK)]
    assert places == [0, 8, 24]
    slots.give(0)
    slots.give(24)
    assert slots.take(2 * BLOCK) == 24
    slots.give(24)
    assert slots.take(1) == 0


def test_free_tokens_not_in_one_piece_are_counted() -> None:
    slots = Slots(6, 1)  # of nine tokens' addresses
    assert [slots.take(tokens) for tokens in (2, 1)] == [0, 2]
    slots.give(0)
    assert [slots.take(tokens) for tokens in (1, 2, 2)] == [0, 3, 5]
    assert slots.take(1) is None and slots.no_hole == 0  # full: no question of holes
    slots.give(3)
    slots.give(0)
    assert slots.free_tokens == 3  # two, two and two addresses
    assert slots.take(3) is None and slots.no_hole == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=80), st.integers(0, 2**32))
def test_no_more_than_the_capacity_is_out_whatever_the_addresses(
    sizes: list[int], seed: int
) -> None:
    slots, random = Slots(50 * BLOCK, BLOCK), Random(seed)
    held: list[tuple[int, int]] = []
    for size in sizes:
        tokens = size * BLOCK
        room = slots.free_tokens >= tokens
        place = slots.take(tokens)
        assert room or place is None
        if place is not None:
            held.append((place, tokens))
        elif held:
            slots.give(held.pop(random.randrange(len(held)))[0])
        assert sum(length for _, length in held) <= 50 * BLOCK


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

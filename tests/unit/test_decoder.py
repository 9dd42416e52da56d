"""The decoder's promise: equal work gives equal bits, whoever shares the batch."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import ComputeError
from engines.layout import KvLayout
from engines.real import decoder as module
from engines.real.decoder import Decoder, DecoderShape, Rows, Windows, self_check
from engines.real.pool import KvPool

PADDED = 128
SHAPE = DecoderShape()
DECODER = Decoder(SHAPE, PADDED)
LAYOUTS = (DECODER.layout(64, 64), DECODER.layout(16, 64))


def a_pool(layout: KvLayout, slots: int, seed: int = 0) -> KvPool:
    pool = KvPool("hbm", layout, slots * PADDED * layout.token_scale)
    pool.array[:] = np.random.default_rng(seed).standard_normal(pool.array.shape)
    return pool


def kv(pool: KvPool, block: int, rows: int) -> bytes:
    held = pool.array[block : block + -(-rows // pool.layout.rows_per_block)]
    by_row = held.transpose(0, 2, 1, 3).reshape(-1, SHAPE.layers, SHAPE.kv_width)
    return by_row[:rows].tobytes()


def logits(windows: Windows, rows: Rows, ids: Sequence[int]) -> bytes:
    tile = DECODER.tile([rows], ids)
    for layer in range(SHAPE.layers):
        DECODER.layer(tile, windows, layer)
    return DECODER.logits(tile).tobytes()


@settings(max_examples=40, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    block=st.integers(0, 20),
    splits=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_split_in_any_slot_gives_the_same_bits(
    layout: KvLayout, block: int, splits: list[int], seed: int
) -> None:
    total = min(sum(splits), 60)
    ids = np.random.default_rng(seed).integers(0, SHAPE.vocabulary, total).tolist()
    plain = a_pool(LAYOUTS[0], 2, seed=1)
    expected = DECODER.run(Windows(plain, PADDED), Rows(0, 0, total), ids)
    pool = a_pool(layout, 2, seed=seed)
    windows = Windows(pool, PADDED)
    found: list[int] = []
    for size in splits:
        first = len(found)
        count = min(size, total - first)
        found += DECODER.run(windows, Rows(block, first, count), ids[first : first + count])
    assert found == expected
    assert kv(pool, block, total) == kv(plain, 0, total)


@pytest.mark.parametrize("layout", LAYOUTS, ids=("one row a block", "four rows a block"))
def test_decode_with_random_neighbours_equals_decode_alone(layout: KvLayout) -> None:
    source = np.random.default_rng(7)
    blocks = PADDED // layout.rows_per_block
    alone, shared = a_pool(layout, 8), a_pool(layout, 8)
    one, many = Windows(alone, PADDED), Windows(shared, PADDED)
    for _ in range(20):
        batch = source.permutation(8)[: source.integers(1, 9)]
        rows = [Rows(int(slot) * blocks, int(source.integers(0, PADDED)), 1) for slot in batch]
        ids = source.integers(0, SHAPE.vocabulary, len(rows)).tolist()
        tile = DECODER.tile(rows, ids)
        for layer in range(SHAPE.layers):
            DECODER.layer(tile, many, layer)
        together = DECODER.logits(tile).copy()
        for row, token, values in zip(rows, ids, together, strict=True):
            assert logits(one, row, [token]) == values.tobytes()
        assert alone.array.tobytes() == shared.array.tobytes()


def test_what_lies_in_the_padding_is_never_seen() -> None:
    ids = list(range(9))
    quiet, noisy = a_pool(LAYOUTS[0], 2, seed=1), a_pool(LAYOUTS[0], 2, seed=2)
    noisy.array *= 1000
    for pool in (quiet, noisy):
        DECODER.run(Windows(pool, PADDED), Rows(3, 0, 9), ids)
    assert kv(quiet, 3, 9) == kv(noisy, 3, 9)


def test_a_window_at_the_pools_end_is_read_as_any_other() -> None:
    small = KvPool("small", LAYOUTS[0], 30 * 64)
    large = a_pool(LAYOUTS[0], 2)
    ids = list(range(20))
    expected = DECODER.run(Windows(large, PADDED), Rows(0, 0, 20), ids)
    assert DECODER.run(Windows(small, PADDED), Rows(10, 0, 20), ids) == expected
    assert kv(small, 10, 20) == kv(large, 0, 20)


def test_attention_one_row_at_a_time_gives_the_same_numbers() -> None:
    assert Decoder(SHAPE, PADDED, attention_rows=1).fingerprint == DECODER.fingerprint


@pytest.mark.parametrize("change", [{"seed": 1}, {"layers": 3}, {"vocabulary": 256}])
def test_fingerprint_names_the_shape_and_the_seed(change: dict[str, int]) -> None:
    other = Decoder(DecoderShape(**change), PADDED)
    assert other.fingerprint != DECODER.fingerprint
    assert Decoder(DecoderShape(**change), PADDED).fingerprint == other.fingerprint


def test_of_equal_logits_the_lowest_id_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(SHAPE, PADDED)
    flat = np.zeros((1, SHAPE.vocabulary), dtype=np.float32)
    flat[0, [7, 300]] = 1
    monkeypatch.setattr(decoder, "logits", lambda tile: flat)
    assert decoder.next_ids(decoder.tile([Rows(0, 0, 1)], [0])) == [7]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_self_check_passes_here(layout: KvLayout) -> None:
    pool = KvPool("hbm", layout, 640)
    self_check(Decoder(SHAPE, 640), pool.layout)
    assert not pool.array.any()


def test_self_check_finds_arithmetic_that_depends_on_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = Decoder(SHAPE, PADDED)
    honest = Decoder.layer

    def skewed(self: Decoder, tile: module.Tile, windows: Windows, layer: int) -> None:
        tile.hidden = tile.hidden * (1 + 1e-6 * tile.rows)
        honest(self, tile, windows, layer)

    monkeypatch.setattr(Decoder, "layer", skewed)
    with pytest.raises(ComputeError, match="attention_rows=1"):
        self_check(decoder, LAYOUTS[0])


def test_memory_that_no_decoder_wrote_is_an_error() -> None:
    pool = a_pool(LAYOUTS[0], 2)
    pool.array[2] = np.nan
    with pytest.raises(ComputeError, match="not finite"):
        DECODER.run(Windows(pool, PADDED), Rows(0, 5, 1), [1])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (Rows(0, PADDED - 1, 2), "raise padded_rows"),
        (Rows(2 * PADDED - 3, 0, 4), "outside pool"),
        (Rows(-1, 0, 1), "beyond"),
    ],
)
def test_rows_out_of_range_are_an_error(rows: Rows, message: str) -> None:
    with pytest.raises(ComputeError, match=message):
        DECODER.run(Windows(a_pool(LAYOUTS[0], 2), PADDED), rows, [0] * rows.count)


def test_unknown_token_ids_and_oversized_tiles_are_errors() -> None:
    with pytest.raises(ComputeError, match="vocabulary"):
        DECODER.tile([Rows(0, 0, 1)], [SHAPE.vocabulary])
    with pytest.raises(ComputeError, match="1 to 8 rows"):
        DECODER.tile([Rows(0, 0, 9)], [0] * 9)

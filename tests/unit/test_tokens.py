"""Content as token ids, and the keys of the blocks that it fills."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import TransferError
from engines.layout import KvLayout
from engines.real.tokens import ID_BYTES, Author, PrefixKeys, decode, encode

LAYOUT = KvLayout(token_scale=64, block_tokens=64, layers=4, width=80)
WIDE = KvLayout(token_scale=16, block_tokens=64, layers=4, width=80)
AUTHOR = Author(1, 512, LAYOUT)


@given(st.integers(0, 50_000), st.integers(0, 50_000))
def test_a_shorter_opening_is_a_prefix_of_a_longer_one(one: int, other: int) -> None:
    short, long = sorted((one, other))
    assert AUTHOR.opening(3, long).startswith(AUTHOR.opening(3, short))
    assert len(AUTHOR.opening(3, short)) == short // 64 * ID_BYTES


def test_openings_differ_by_id_and_by_seed() -> None:
    texts = {AUTHOR.opening(0, 640), AUTHOR.opening(1, 640), Author(2, 512, LAYOUT).opening(0, 640)}
    assert len(texts) == 3


@given(st.integers(0, 5_000), st.integers(0, 8_000))
def test_extend_gives_one_id_for_each_whole_token_scale(context: int, prompt: int) -> None:
    content = AUTHOR.opening(0, context)
    longer = AUTHOR.extend(content, prompt, agent=5, turn=2)
    assert len(longer) == prompt // 64 * ID_BYTES
    common = min(len(content), len(longer))
    assert longer[:common] == content[:common]
    assert all(token < 512 for token in decode(longer))


def test_what_is_added_is_the_agents_and_the_turns_own() -> None:
    content = AUTHOR.opening(0, 640)
    added = {AUTHOR.extend(content, 1280, agent, turn) for agent in (1, 2) for turn in (0, 1)}
    assert len(added) == 4
    assert AUTHOR.extend(content, 1280, 1, 0) in added


def test_a_crossing_of_no_boundary_adds_no_id() -> None:
    content = AUTHOR.opening(0, 640)
    assert AUTHOR.extend(content, 703, 1, 1) == content
    assert AUTHOR.truncate(content, 639) == content[:-ID_BYTES]


def test_keys_do_not_depend_on_what_was_asked_before() -> None:
    content = AUTHOR.opening(0, 64 * 500)
    fresh = PrefixKeys(LAYOUT, "model").keys(content, 0, 500)
    warm = PrefixKeys(LAYOUT, "model")
    for count in (1, 63, 64, 65, 200, 128, 499, 500, 500):
        assert np.array_equal(warm.keys(content, 0, count), fresh[:count])
    assert np.array_equal(warm.keys(content, 130, 7), fresh[130:137])
    assert fresh.dtype == np.uint64
    assert len(set(fresh.tolist())) == 500


def test_a_key_binds_every_token_before_its_blocks_end() -> None:
    ids = decode(AUTHOR.opening(0, 64 * 300))
    truth = PrefixKeys(LAYOUT, "model").keys(encode(ids), 0, 300)
    ids[100] ^= 1
    memoised = PrefixKeys(LAYOUT, "model")
    memoised.keys(AUTHOR.opening(0, 64 * 300), 0, 300)
    for keys in (memoised, PrefixKeys(LAYOUT, "model")):
        other = keys.keys(encode(ids), 0, 300)
        assert np.array_equal(other[:100], truth[:100])
        assert not (other[100:] == truth[100:]).any()


def test_keys_bind_model_and_layout() -> None:
    content = AUTHOR.opening(0, 64 * 64)
    keys = [
        PrefixKeys(layout, model).keys(content, 0, 1)[0]
        for layout in (LAYOUT, WIDE)
        for model in ("one", "other")
    ]
    assert len(set(keys)) == 4


def test_blocks_of_several_rows_take_several_ids_each() -> None:
    content = AUTHOR.opening(0, 64 * 64)
    assert len(PrefixKeys(WIDE, "model").keys(content, 0, 16)) == 16
    with pytest.raises(TransferError, match="holds no blocks 0 to 17"):
        PrefixKeys(WIDE, "model").keys(content, 0, 17)


def test_the_memo_is_bounded_and_evicts_without_changing_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PrefixKeys, "MEMO", 4)
    keys = PrefixKeys(LAYOUT, "model")
    contents = [AUTHOR.opening(number, 64 * 200) for number in range(6)]
    first = [keys.keys(content, 0, 200).tolist() for content in contents]
    assert len(keys._memo) == 4
    assert [keys.keys(content, 0, 200).tolist() for content in contents] == first

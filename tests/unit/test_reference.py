"""The reference finds what is wrong, and only that; openings survive being cached."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engines.errors import KvDigestMismatch, KvMissing
from engines.kv import Span
from engines.layout import KvLayout
from engines.real import openings
from engines.real.compute import fingerprint
from engines.real.decoder import Decoder, DecoderShape, Rows, Windows
from engines.real.openings import cache_bytes, ensure_openings, load_opening
from engines.real.pool import KvPool
from engines.real.reference import Reference, ReferenceTurn, TurnVerdict
from engines.real.tokens import ID_BYTES, Author, decode, encode

PADDED = 256
DECODER = Decoder(DecoderShape(), PADDED)
ONE = DECODER.layout(64, 64)
FOUR = DECODER.layout(16, 64)
OPENING_TOKENS = 64 * 100


class Served:
    """An agent served by free-running decode, its KV cut back to whole blocks between turns."""

    def __init__(self, layout: KvLayout, agent: int, opening_id: int, tokens: int) -> None:
        self.author = Author(3, DECODER.shape.vocabulary, layout)
        self.layout = layout
        self.agent = agent
        self.pool = KvPool("hbm", layout, PADDED * layout.token_scale)
        self.windows = Windows(self.pool, PADDED)
        self.content = self.author.opening(opening_id, tokens)
        self.held = len(self.content) // ID_BYTES
        ids = decode(self.content)
        DECODER.run(self.windows, Rows(0, 0, len(ids)), ids)
        self.turns: list[ReferenceTurn] = []

    def turn(self, keep: int | None, prompt: int, generate: int, sampled: bool = True) -> None:
        if keep is not None:
            self.content = self.author.truncate(self.content, keep)
        hit = min(self.held, len(self.content) // ID_BYTES)
        self.content = self.author.extend(self.content, prompt, self.agent, len(self.turns))
        end = self.layout.rows(prompt)
        ids = decode(self.content)
        first = min(hit // self.layout.rows_per_block * self.layout.rows_per_block, end - 1)
        token = DECODER.run(self.windows, Rows(0, first, end - first), ids[first:])[-1]
        span = Span("hbm", 0, 0, prompt, 0, self.layout.layers)
        digest = fingerprint(self.pool, span) if sampled else ""
        new: list[int] = []
        for row in range(end, self.layout.rows(prompt + generate)):
            new.append(token)
            token = DECODER.run(self.windows, Rows(0, row, 1), [token])[0]
        self.turns.append(
            ReferenceTurn(len(self.turns), keep, prompt, generate, encode(new), digest)
        )
        self.content += encode(new)
        self.held = len(self.content) // ID_BYTES


def a_trajectory(layout: KvLayout, agent: int = 1) -> Served:
    scale = layout.token_scale
    served = Served(layout, agent, 0, 100 * scale)
    served.turn(None, 107 * scale + 13, 4 * scale)
    served.turn(None, 118 * scale + 3, scale // 2)  # may cross no boundary
    served.turn(105 * scale + 1, 120 * scale, 5 * scale, sampled=False)  # context diverges
    served.turn(40 * scale, 40 * scale, 3 * scale)  # below the opening, and nothing appended
    return served


def a_reference(layout: KvLayout) -> Reference:
    return Reference(DECODER, layout, Author(3, DECODER.shape.vocabulary, layout))


def judged(served: Served, turns: list[ReferenceTurn]) -> list[TurnVerdict]:
    tokens = 100 * served.layout.token_scale
    return a_reference(served.layout).check_agent(served.agent, 0, tokens, turns)


@pytest.mark.parametrize("layout", [ONE, FOUR], ids=("one row a block", "four rows a block"))
def test_what_was_served_rightly_is_found_right(layout: KvLayout) -> None:
    served = a_trajectory(layout)
    verdicts = judged(served, served.turns)
    assert [verdict.tokens_checked for verdict in verdicts] == [4, 0, 5, 3]
    assert [verdict.kv_equal for verdict in verdicts] == [True, True, None, True]
    assert all(verdict.right for verdict in verdicts)


def test_an_agent_that_starts_with_nothing_in_storage() -> None:
    served = Served(ONE, 4, 9, 0)
    served.turn(None, 64 * 3, 64 * 2)
    served.turn(None, 64 * 7 + 5, 64)
    verdicts = a_reference(ONE).check_agent(4, 9, 0, served.turns)
    assert [verdict.tokens_checked for verdict in verdicts] == [2, 1]
    assert all(verdict.right and verdict.kv_equal for verdict in verdicts)
    wrong = msgspec.structs.replace(served.turns[1], generated=encode([1]))
    assert not a_reference(ONE).check_agent(4, 9, 0, [served.turns[0], wrong])[1].right


def test_one_reference_judges_many_agents_without_mixing_them() -> None:
    reference = a_reference(ONE)
    for agent in (1, 2, 1):
        served = a_trajectory(ONE, agent)
        verdicts = reference.check_agent(agent, 0, OPENING_TOKENS, served.turns)
        assert all(verdict.right for verdict in verdicts)
    assert not all(v.right for v in reference.check_agent(2, 0, OPENING_TOKENS, served.turns))


@pytest.mark.parametrize("place", range(4))
def test_a_wrong_token_is_caught_at_its_turn(place: int) -> None:
    served = a_trajectory(ONE)
    ids = decode(served.turns[0].generated)
    ids[place] ^= 1
    wrong = msgspec.structs.replace(served.turns[0], generated=encode(ids))
    verdict = judged(served, [wrong])[0]
    assert not verdict.right
    assert place <= verdict.tokens_equal < 4


@pytest.mark.parametrize("change", [lambda g: g[:-2], lambda g: g + g[:2], lambda g: b"\xff" * 8])
def test_missing_surplus_and_impossible_tokens_are_caught(change: Callable[[bytes], bytes]) -> None:
    served = a_trajectory(ONE)
    wrong = msgspec.structs.replace(served.turns[0], generated=change(served.turns[0].generated))
    assert not judged(served, [wrong, *served.turns[1:]])[0].right


def test_a_swap_of_two_blocks_always_shows_in_kv_and_mostly_in_tokens() -> None:
    source = np.random.default_rng(5)
    shown = 0
    for agent in range(20):
        served = Served(ONE, agent, 0, OPENING_TOKENS)
        one, other = source.choice(100, 2, replace=False)
        served.pool.array[[one, other]] = served.pool.array[[other, one]]
        served.turn(None, OPENING_TOKENS + 64 * 7, 64 * 4)
        verdict = judged(served, served.turns)[0]
        assert verdict.kv_equal is False
        shown += verdict.tokens_equal < verdict.tokens_checked
    assert shown > 10


WANTED = [(0, OPENING_TOKENS), (1, OPENING_TOKENS), (0, 64 * 20 + 7)]


@pytest.mark.parametrize("layout", [ONE, FOUR], ids=("one row a block", "four rows a block"))
def test_cached_openings_are_what_an_engine_would_compute(tmp_path: Path, layout: KvLayout) -> None:
    author = Author(3, DECODER.shape.vocabulary, layout)
    tokens = 50 * layout.token_scale + 1  # 50 rows: twelve and a half blocks of four
    (path,) = ensure_openings(tmp_path, DECODER, layout, author, [(0, tokens)])
    served = Served(layout, 1, 0, tokens)
    values = load_opening(path)
    assert values.shape == (50 // layout.rows_per_block, 4, layout.rows_per_block, 80)
    assert values.tobytes() == served.pool.array[: len(values)].tobytes()


def test_openings_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    author = Author(3, DECODER.shape.vocabulary, ONE)
    paths = ensure_openings(tmp_path, DECODER, ONE, author, WANTED)
    assert len(set(paths)) == 3
    assert cache_bytes(tmp_path) == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert load_opening(paths[2]).tobytes() == load_opening(paths[0])[:20].tobytes()

    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(openings, "_compute", never)
    assert ensure_openings(tmp_path, DECODER, ONE, author, WANTED) == paths
    with pytest.raises(AssertionError, match="computed again"):
        ensure_openings(tmp_path, DECODER, ONE, Author(4, 512, ONE), WANTED)


def cut(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path, _: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5000] ^= 4
    path.write_bytes(data)


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def misplace(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [cut, flip, empty, misplace])
def test_a_damaged_opening_is_detected_and_computed_anew(
    tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    author = Author(3, DECODER.shape.vocabulary, ONE)
    path, other = ensure_openings(tmp_path, DECODER, ONE, author, WANTED[:2])
    sound = path.read_bytes()
    damage(path, other)
    with pytest.raises(KvDigestMismatch, match="damaged"):
        load_opening(path)
    ensure_openings(tmp_path, DECODER, ONE, author, WANTED[:2])
    assert path.read_bytes() == sound
    assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_opening_is_named(tmp_path: Path) -> None:
    with pytest.raises(KvMissing, match="ensure_openings"):
        load_opening(tmp_path / "none.kv")

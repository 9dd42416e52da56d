"""Packing of a forward: the quota of GPU time, the limit of tokens, and the cut."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler.batch import Candidate, Chunk, pack
from scheduler.policy import Traits


def kilo_tokens_a_second(cached_tokens: int, compute_tokens: int) -> float:
    return compute_tokens / 1_024


def attention(cached_tokens: int, compute_tokens: int) -> float:
    return compute_tokens * (1e-5 + 1e-9 * (cached_tokens + compute_tokens / 2))


def by_quota(quota_s: float) -> Traits:
    return Traits(layerwise=True, quota_s=quota_s)


def test_whole_requests_run_in_order_while_the_quota_lasts() -> None:
    candidates = [Candidate(7, 0, 100), Candidate(3, 0, 200)]
    chunks = pack(candidates, by_quota(0.5), kilo_tokens_a_second)
    assert [(chunk.request, chunk.tokens) for chunk in chunks] == [(7, 100), (3, 200)]


def test_the_request_that_overflows_is_cut_to_what_fits_and_the_rest_waits() -> None:
    candidates = [Candidate(1, 0, 200), Candidate(2, 0, 200), Candidate(3, 0, 1)]
    chunks = pack(candidates, by_quota(300 / 1_024), kilo_tokens_a_second)
    assert [(chunk.request, chunk.tokens) for chunk in chunks] == [(1, 200), (2, 100)]


def test_cached_tokens_make_a_chunk_dearer_and_so_smaller() -> None:
    small = pack([Candidate(1, 100_000, 10_000)], by_quota(0.1), attention)
    large = pack([Candidate(1, 0, 10_000)], by_quota(0.1), attention)
    assert 0 < small[0].tokens < large[0].tokens < 10_000


def test_a_chunk_of_less_than_one_token_is_none() -> None:
    candidates = [Candidate(1, 0, 300), Candidate(2, 0, 200)]
    chunks = pack(candidates, by_quota(300 / 1_024), kilo_tokens_a_second)
    assert [chunk.request for chunk in chunks] == [1]


def test_one_token_runs_even_if_it_breaks_the_quota() -> None:
    chunks = pack([Candidate(1, 0, 50)], by_quota(0.0001), kilo_tokens_a_second)
    assert [(chunk.request, chunk.tokens) for chunk in chunks] == [(1, 1)]


def test_by_tokens_the_one_that_exceeds_is_cut_whatever_it_costs() -> None:
    candidates = [Candidate(number, 10**6, 1000) for number in range(5)]
    chunks = pack(candidates, Traits(layerwise=False, max_tokens=2500), attention)
    assert [(chunk.request, chunk.tokens) for chunk in chunks] == [(0, 1000), (1, 1000), (2, 500)]
    whole = pack(candidates, Traits(layerwise=False, max_tokens=2000), attention)
    assert [(chunk.request, chunk.tokens) for chunk in whole] == [(0, 1000), (1, 1000)]


def test_the_tighter_of_two_limits_cuts() -> None:
    candidates = [Candidate(1, 0, 1000)]
    for quota_s, max_tokens, expected in ((1.0, 300, 300), (200 / 1_024, 300, 200)):
        traits = Traits(layerwise=True, quota_s=quota_s, max_tokens=max_tokens)
        assert [c.tokens for c in pack(candidates, traits, kilo_tokens_a_second)] == [expected]


def test_a_prompt_of_hits_alone_has_a_chunk_of_nothing() -> None:
    candidates = [Candidate(1, 640, 0), Candidate(2, 640, 0)]
    chunks = pack(candidates, by_quota(0.1), kilo_tokens_a_second)
    assert [(chunk.request, chunk.tokens) for chunk in chunks] == [(1, 0), (2, 0)]


def test_without_limits_all_run() -> None:
    candidates = [Candidate(number, 0, 10**6) for number in range(5)]
    assert len(pack(candidates, Traits(layerwise=True), kilo_tokens_a_second)) == 5


def test_nothing_to_run_packs_nothing() -> None:
    assert pack([], by_quota(300 / 1_024), kilo_tokens_a_second) == []


tokens = st.integers(1, 50_000)


@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=20), st.floats(0.001, 2.0))
def test_a_forward_fills_the_quota_in_order_and_never_breaks_it(
    sizes: list[tuple[int, int]], quota_s: float
) -> None:
    candidates = [Candidate(number, *size) for number, size in enumerate(sizes)]
    chunks = pack(candidates, by_quota(quota_s), attention)
    assert [chunk.request for chunk in chunks] == list(range(len(chunks)))
    assert all(
        chunk.tokens == candidate.pending_tokens
        for chunk, candidate in zip(chunks[:-1], candidates, strict=False)
    )
    spent_s = sum(chunk.attention_s for chunk in chunks)
    assert spent_s <= quota_s + 1e-9
    last = candidates[len(chunks) - 1]
    if chunks[-1].tokens < last.pending_tokens:
        one_more_s = attention(last.cached_tokens, chunks[-1].tokens + 1) - chunks[-1].attention_s
        assert spent_s + one_more_s > quota_s - 1e-9
    elif len(chunks) < len(candidates):
        following = candidates[len(chunks)]
        assert spent_s + attention(following.cached_tokens, 1) > quota_s - 1e-9


@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=8), st.floats(0.0001, 1.0))
def test_forwards_end(sizes: list[tuple[int, int]], quota_s: float) -> None:
    left = {number: size for number, size in enumerate(sizes)}
    forwards = 0
    budget = sum(attention(cached, pending) for cached, pending in sizes)
    while left and forwards < 200:
        candidates = [Candidate(number, *size) for number, size in left.items()]
        chunks = pack(candidates, by_quota(quota_s + budget / 100), attention)
        assert chunks
        for chunk in chunks:
            cached, pending = left.pop(chunk.request)
            assert 1 <= chunk.tokens <= pending
            if chunk.tokens < pending:
                left[chunk.request] = (cached + chunk.tokens, pending - chunk.tokens)
        forwards += 1
    assert not left


def literally(
    candidates: list[Candidate], quota_s: float | None, max_tokens: int | None
) -> list[Chunk]:
    """The paper's text, token by token: add in FIFO order; on overflow, the most that fits."""
    chunks: list[Chunk] = []
    for candidate in candidates:
        spent_s = sum(chunk.attention_s for chunk in chunks)
        spent_tokens = sum(chunk.tokens for chunk in chunks)
        tokens = 0
        while tokens < candidate.pending_tokens:
            if max_tokens is not None and spent_tokens + tokens + 1 > max_tokens:
                break
            if quota_s is not None and spent_s + quadratic(candidate, tokens + 1) > quota_s:
                break
            tokens += 1
        if tokens == 0 and candidate.pending_tokens and not chunks:
            tokens = 1
        if tokens or not candidate.pending_tokens:
            chunks.append(Chunk(candidate.request, tokens, quadratic(candidate, tokens)))
        if tokens < candidate.pending_tokens:
            break
    return chunks


def quadratic(candidate: Candidate, tokens: int) -> float:
    """Seconds in whole numbers, that sums are exact and limits are often met to the point."""
    return tokens * (1 + candidate.cached_tokens // 16) + tokens * tokens // 8


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 40)), max_size=8),
    st.none() | st.integers(1, 120).map(float),
    st.none() | st.integers(1, 60),
)
def test_chunks_are_those_of_the_text_taken_literally(
    sizes: list[tuple[int, int]], quota_s: float | None, max_tokens: int | None
) -> None:
    candidates = [Candidate(number, *size) for number, size in enumerate(sizes)]
    traits = Traits(layerwise=True, quota_s=quota_s, max_tokens=max_tokens)
    chunks = pack(candidates, traits, lambda cached, n: quadratic(Candidate(0, cached, n), n))
    assert chunks == literally(candidates, quota_s, max_tokens)


def test_what_fills_the_quota_to_the_point_is_whole() -> None:
    candidates = [Candidate(1, 0, 256), Candidate(2, 0, 256), Candidate(3, 0, 1)]
    chunks = pack(candidates, by_quota(0.5), kilo_tokens_a_second)
    assert [(chunk.request, chunk.tokens) for chunk in chunks] == [(1, 256), (2, 256)]

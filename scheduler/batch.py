"""Which tokens a PE computes in its next forward (DualPath section 6.5).

The GPUs of a group meet in every layer, so a lane with more work makes all others wait. A quota
of predicted GPU time keeps forwards alike; the request that would break it is cut.
"""

from collections.abc import Callable, Sequence

import msgspec

from scheduler.policy import Traits

Cost = Callable[[int, int], float]
"""Seconds of one GPU for (cached tokens, tokens to compute); must not fall with the latter."""


class Candidate(msgspec.Struct, frozen=True):
    """A request that could run: tokens whose KV is there, and tokens still to compute."""

    request: int
    cached_tokens: int
    pending_tokens: int


class Chunk(msgspec.Struct, frozen=True):
    """Tokens of a request to compute in this forward, and the GPU time predicted for them."""

    request: int
    tokens: int
    gpu_s: float


def pack(candidates: Sequence[Candidate], traits: Traits, cost: Cost) -> list[Chunk]:
    """Chunks in FIFO order within `max_batch` requests and `quota_s` of predicted time.

    The first request that does not fit is cut to what does, and nothing behind it runs. If not
    even one token of the very first fits, one token runs all the same: waiting would not help.
    """
    chunks: list[Chunk] = []
    left_s = float("inf") if traits.quota_s is None else traits.quota_s
    for candidate in candidates[: traits.max_batch]:
        chunk = _cut(candidate, candidate.pending_tokens, cost)
        if chunk.gpu_s > left_s:
            fitting = _fitting_tokens(candidate, left_s, cost)
            if fitting or not chunks:
                chunks.append(_cut(candidate, max(1, fitting), cost))
            break
        chunks.append(chunk)
        left_s -= chunk.gpu_s
    return chunks


def _fitting_tokens(candidate: Candidate, left_s: float, cost: Cost) -> int:
    """The most tokens that stay within `left_s`; all of them are known not to."""
    fits, too_many = 0, candidate.pending_tokens
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if cost(candidate.cached_tokens, middle) <= left_s:
            fits = middle
        else:
            too_many = middle
    return fits


def _cut(candidate: Candidate, tokens: int, cost: Cost) -> Chunk:
    return Chunk(candidate.request, tokens, cost(candidate.cached_tokens, tokens))

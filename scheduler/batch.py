"""Which tokens a PE computes in its next forward (DualPath section 6.5).

The GPUs of a group meet in every layer, between attention and experts, so a lane with more
attention makes all others wait. A quota of its predicted time keeps lanes alike; the request that
would break it is cut.
"""

import sys
from collections.abc import Callable, Sequence

import msgspec

from scheduler.policy import Traits

Cost = Callable[[int, int], float]
"""Seconds of one GPU's attention, over all layers, for (cached tokens, tokens to compute); must
not fall with the latter."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A request that could run: tokens whose KV is there, and tokens still to compute."""

    request: int
    cached_tokens: int
    pending_tokens: int


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Tokens of a request to compute in this forward, and the time predicted for attention."""

    request: int
    tokens: int
    attention_s: float


def pack(candidates: Sequence[Candidate], traits: Traits, cost: Cost) -> list[Chunk]:
    """Chunks in FIFO order within `max_tokens` and `quota_s` of predicted time.

    The first request that does not fit is cut to what does, and nothing behind it runs. If not
    even one token of the very first fits, one token runs all the same: waiting would not help.
    """
    chunks: list[Chunk] = []
    left_s = float("inf") if traits.quota_s is None else traits.quota_s
    left_tokens = sys.maxsize if traits.max_tokens is None else traits.max_tokens
    for candidate in candidates:
        fitting = min(candidate.pending_tokens, left_tokens)
        if cost(candidate.cached_tokens, fitting) > left_s:
            fitting = _fitting_tokens(candidate, fitting, left_s, cost)
        if fitting < candidate.pending_tokens:
            if fitting or not chunks:
                chunks.append(_cut(candidate, max(1, fitting), cost))
            break
        chunk = _cut(candidate, fitting, cost)
        chunks.append(chunk)
        left_s -= chunk.attention_s
        left_tokens -= chunk.tokens
    return chunks


def _fitting_tokens(candidate: Candidate, too_many: int, left_s: float, cost: Cost) -> int:
    """The most tokens that stay within `left_s`; `too_many` are known not to."""
    fits = 0
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if cost(candidate.cached_tokens, middle) <= left_s:
            fits = middle
        else:
            too_many = middle
    return fits


def _cut(candidate: Candidate, tokens: int, cost: Cost) -> Chunk:
    return Chunk(candidate.request, tokens, cost(candidate.cached_tokens, tokens))

"""The paper's rules as sentences about the books: who could have been chosen, and why not.

Worked out anew in their plain text, so they agree with a policy that follows the rules, and show
where another one departs from them.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from scheduler import path
from scheduler.books import EngineBook, Group
from scheduler.cluster import Cluster
from scheduler.decode import HIGH_FACTOR
from scheduler.types import Decision, Request, Side

OVERLOADED, SHORT_QUEUE, LONG_QUEUE = "C1", "C2", "C3"
NORMAL, HIGH, NO_ROOM = "normal", "high", "no room"


class Candidate(msgspec.Struct, frozen=True):
    """An engine that could have been chosen: `requests` is seq_e, `tokens` is tok_e.

    `set` is C1, C2 or C3 of Algorithm 1 for a PE; for a DE `normal`, `high` or `no room`, and empty
    for one with room where the policy has no Z. `why_not` is why the paper's rule does not take
    it; empty if it does, and for a policy with another rule.
    """

    name: str
    set: str
    requests: int
    tokens: int
    free_hbm_tokens: int
    node: str
    read_queue_tokens: int
    why_not: str


class Choice(msgspec.Struct, frozen=True):
    """An engine chosen for one side at `at_s`, `waited_s` after the arrival.

    `group` is the one that fetched, empty if the request was placed unasked; `pulled` if the engine
    is of that group. `ahead` is how many requests waited for this side when it arrived, `overtaken`
    how many of these still do. `paper` is the engine that the paper's rule takes, empty if the
    policy has another rule. `candidates` are in the order of the rule, `scores` is what the policy
    itself says.
    """

    at_s: float
    waited_s: float
    group: str
    pulled: bool
    engine: str
    ahead: int
    overtaken: int
    candidates: tuple[Candidate, ...]
    paper: str
    scores: dict[str, Any]


class Drained(msgspec.Struct, frozen=True):
    """The request left the global queue for the DE group with the smallest load, in tokens."""

    at_s: float
    group: str
    loads: dict[str, int]


class Room(msgspec.Struct, frozen=True):
    """The DE rule's numbers: requests of R, from this one on, and Z in tokens."""

    needed_tokens: int
    fitting: tuple[int, ...]
    high_tokens: float


class Queue(msgspec.Struct, frozen=True):
    """A node's read queue as it was counted at `counted_s`, with what was promised since.

    `left_tokens` is what should be left of it by now, `read_tokens` all that it was ever given.
    """

    node: str
    read_queue_tokens: int
    counted_s: float
    left_tokens: float
    read_tokens: int


class Reading(msgspec.Struct, frozen=True):
    """Both read queues when the path was decided; `paper` is the side of the shorter one."""

    at_s: float
    pe: Queue
    de: Queue
    paper: Side
    why: str
    scores: dict[str, Any]


class Explanation(msgspec.Struct):
    """Everything about one request; what did not happen is None."""

    request: Request
    arrived_s: float
    alpha_tokens: int
    beta_tokens: int
    prefill: Choice | None = None
    drained: Drained | None = None
    room: Room | None = None
    decode: Choice | None = None
    reading: Reading | None = None
    decision: Decision | None = None
    decided_s: float | None = None


def prefill_set(cluster: Cluster, engine: EngineBook) -> str:
    """C1, C2 or C3 of Algorithm 1."""
    if engine.tokens > cluster.spec.beta_tokens:
        return OVERLOADED
    long = engine.node.read_queue_tokens > cluster.spec.alpha_tokens
    return LONG_QUEUE if long else SHORT_QUEUE


def prefill_books(cluster: Cluster, engines: Sequence[EngineBook]) -> tuple[Candidate, ...]:
    """What a policy of another rule could see."""
    return tuple(_candidate(engine, prefill_set(cluster, engine), "") for engine in engines)


def prefill(cluster: Cluster, engines: Sequence[EngineBook]) -> tuple[tuple[Candidate, ...], str]:
    """PEs in the order of Algorithm 1, and the one that it takes."""
    sets = {engine.name: prefill_set(cluster, engine) for engine in engines}

    def rank(engine: EngineBook) -> tuple[int, int, int, int]:
        place = (SHORT_QUEUE, LONG_QUEUE, OVERLOADED).index(sets[engine.name])
        return place, engine.tokens, engine.requests, engine.order

    ranked = sorted(engines, key=rank)
    first = ranked[0]

    def why_not(engine: EngineBook) -> str:
        ours = sets[engine.name]
        if ours == OVERLOADED:
            return "overloaded: tok_e is above beta"
        if engine is first:
            return ""
        if ours != sets[first.name]:
            return "its node's read_q is above alpha"
        return _larger(("tok_e", engine.tokens, first.tokens),
                       ("seq_e", engine.requests, first.requests))  # fmt: skip

    candidates = tuple(_candidate(e, sets[e.name], why_not(e)) for e in ranked)
    return candidates, "" if why_not(first) else first.name


def lightest_group(cluster: Cluster, before: Sequence[Request]) -> tuple[str, dict[str, int]]:
    """Where a request goes from the global queue, behind those before it; and all groups' loads."""
    groups = [group for group in cluster.groups.values() if group.side is Side.DE]
    loads = {group.name: group.load_tokens for group in groups}
    for request in before:
        loads[_least(loads)] += request.context_tokens
    return _least(loads), loads


def _least(loads: dict[str, int]) -> str:
    return min(loads, key=lambda name: loads[name])  # the first of equal ones


def room(cluster: Cluster, group: Group, line: Sequence[Request]) -> Room:
    """R and Z for a group's private queue, whose head is the request.

    They are those of the fetch's beginning, whatever was placed since: a placement takes its need
    from the free HBM, and moves its context from R to the group's tokens.
    """
    free_tokens = sum(max(0, engine.free_hbm_tokens) for engine in group.engines)
    fitting = []
    for request in line:
        free_tokens -= cluster.hbm_tokens(request)
        if free_tokens < 0:
            break
        fitting.append(request)
    placed = sum(request.context_tokens for request in fitting)
    return Room(
        cluster.hbm_tokens(line[0]),
        tuple(request.id for request in fitting),
        HIGH_FACTOR * (placed + group.tokens) / len(group.engines),
    )


def decode_books(engines: Sequence[EngineBook], needed_tokens: int) -> tuple[Candidate, ...]:
    """What a policy of another rule could see."""
    return tuple(
        _candidate(engine, "" if engine.free_hbm_tokens >= needed_tokens else NO_ROOM, "")
        for engine in engines
    )


def decode(
    engines: Sequence[EngineBook], context_tokens: int, numbers: Room
) -> tuple[tuple[Candidate, ...], str]:
    """DEs in the order of the paper's rule, and the one that it takes."""

    def set_of(engine: EngineBook) -> str:
        if engine.free_hbm_tokens < numbers.needed_tokens:
            return NO_ROOM
        return NORMAL if engine.tokens + context_tokens <= numbers.high_tokens else HIGH

    sets = {engine.name: set_of(engine) for engine in engines}

    def rank(engine: EngineBook) -> tuple[int, int, int, int]:
        place = (NORMAL, HIGH, NO_ROOM).index(sets[engine.name])
        if sets[engine.name] == NORMAL:
            return place, engine.requests, engine.tokens, engine.order
        return place, engine.tokens, engine.requests, engine.order

    ranked = sorted(engines, key=rank)
    first = ranked[0]

    def why_not(engine: EngineBook) -> str:
        ours = sets[engine.name]
        if ours == NO_ROOM:
            return "free HBM is below what it needs"
        if engine is first:
            return ""
        if ours != sets[first.name]:
            return "tok_e with it is above Z"
        requests = ("seq_e", engine.requests, first.requests)
        tokens = ("tok_e", engine.tokens, first.tokens)
        return _larger(requests, tokens) if ours == NORMAL else _larger(tokens, requests)

    candidates = tuple(_candidate(e, sets[e.name], why_not(e)) for e in ranked)
    return candidates, "" if why_not(first) else first.name


def reading(cluster: Cluster, now_s: float, pe: str, de: str, scores: dict[str, Any]) -> Reading:
    """Both queues, and the side that the paper's rule reads on."""
    nodes = cluster.node_of(pe), cluster.node_of(de)
    side = path.shorter_queue(cluster, pe, de)
    pe_queue, de_queue = (
        Queue(
            node.name,
            node.read_queue_tokens,
            node.counted_s,
            path.left_tokens(cluster, node),
            node.read_tokens,
        )
        for node in nodes
    )
    if pe_queue.left_tokens != de_queue.left_tokens:
        why = f"the {side.upper()}'s node should have less left to read"
    elif pe_queue.read_tokens != de_queue.read_tokens:
        why = f"equal, and the {side.upper()}'s node was given less to read so far"
    else:
        why = "equal, and given as much to read so far"
    return Reading(now_s, pe_queue, de_queue, side, why, scores)


def _larger(*loads: tuple[str, int, int]) -> str:
    """The first load in which an engine exceeds the one that is taken."""
    name = next((name for name, ours, theirs in loads if ours > theirs), "")
    return f"{name} is higher" if name else "equal, and later in order"


def _candidate(engine: EngineBook, set_: str, why_not: str) -> Candidate:
    return Candidate(
        engine.name,
        set_,
        engine.requests,
        engine.tokens,
        engine.free_hbm_tokens,
        engine.node.name,
        engine.node.read_queue_tokens,
        why_not,
    )

"""Routing by prefix: who has it cached, the bound on load, and what is read where."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.lookup import lookup
from scheduler.policies.affinity import Affinity
from scheduler.prefix import PrefixIndex
from scheduler.scheduler import Scheduler
from scheduler.types import (
    Arrived,
    ClusterSpec,
    Decision,
    Ended,
    EngineSpec,
    Extent,
    Fetch,
    ReadExtent,
    Request,
    Side,
)

BLOCK = 64
GROUPS = ("p0", "p1", "p2", "d0", "d1")
POLICIES = ("affinity", "dualpath-affinity")


def spec(cache_blocks: int = 1000, beta: int = 2000) -> ClusterSpec:
    engines = tuple(
        EngineSpec(f"{node}/0", Side.PE if node[0] == "p" else Side.DE, node, node, 100_000)
        for node in GROUPS
    )
    return ClusterSpec(engines, BLOCK, 100_000, beta, 0, cache_blocks * BLOCK)


def turn(session: int, number: int) -> Request:
    """A session's next turn: an opening of 8 blocks, 2 appended and 1 generated each turn."""
    hit = 8 + 3 * number
    context = [Extent(1000 + session, 0, 8), Extent(session, 8, hit - 8)][: 2 if number else 1]
    return Request(
        session * 100 + number, session, number, (hit + 2) * BLOCK, hit * BLOCK, BLOCK,
        tuple(context), session,
    )  # fmt: skip


class Cluster:
    """A scheduler whose groups fetch in turn and report nothing: its own books are all it has."""

    def __init__(self, policy: str, spec: ClusterSpec) -> None:
        self.scheduler = Scheduler(spec, lookup(policy))

    def decide(self, *requests: Request, order: tuple[str, ...] = GROUPS) -> list[Decision]:
        for request in requests:
            assert self.scheduler.handle(Arrived(0.0, request)) == []
        return [d for g in order for d in self.scheduler.handle(Fetch(0.0, g, (), ()))]

    def loads(self) -> dict[str, int]:
        """What each prefill node has to do, its queue included."""
        policy = self.scheduler._policy
        assert isinstance(policy, Affinity)
        return {name: node.load_tokens for name, node in policy._prefill._nodes.items()}

    def end(self, request: Request) -> None:
        self.scheduler.handle(Ended(1.0, request.id))

    def play(self, request: Request) -> Decision:
        (decision,) = self.decide(request)
        self.end(request)
        return decision


@pytest.mark.parametrize("policy", POLICIES)
def test_a_session_returns_to_the_nodes_that_have_its_prefix(policy: str) -> None:
    cluster = Cluster(policy, spec())
    first = {session: cluster.play(turn(session, 0)) for session in range(6)}
    # Others came in between, and whoever fetches first takes nothing of another's.
    for number in range(1, 4):
        for session in reversed(range(6)):
            decision = cluster.play(turn(session, number))
            assert decision.reads[0].side is first[session].reads[0].side
            if decision.reads[0].side is Side.PE:
                assert decision.pe == first[session].pe
            else:
                assert decision.de == first[session].de


@pytest.mark.parametrize("policy", POLICIES)
def test_without_caches_new_work_goes_to_the_group_with_the_least(policy: str) -> None:
    cluster = Cluster(policy, spec(cache_blocks=0))
    sessions = [turn(session, 1) for session in range(6)]
    pes = [decision.pe for decision in sorted(cluster.decide(*sessions), key=lambda d: d.seq)]
    assert sorted(pes) == ["p0/0", "p0/0", "p1/0", "p1/0", "p2/0", "p2/0"]


def test_hot_prefixes_do_not_pile_up_on_one_node() -> None:
    # beta = 2,000 tokens are two and a half of these prompts of 832.
    cluster = Cluster("affinity", spec())
    home = cluster.play(turn(1, 0)).pe[:2]
    loads = dict.fromkeys(("p0", "p1", "p2"), 0)
    for number in range(60):
        most = 1.25 * sum(loads.values()) / 3 + 2000
        request = msgspec.structs.replace(turn(1, 1), id=500 + number)
        cluster.scheduler.handle(Arrived(0.0, request))
        before, loads = loads, cluster.loads()
        (chosen,) = (node for node in loads if loads[node] != before[node])
        assert before[chosen] <= most
        assert chosen == home or before[home] > most
    assert loads[home] == max(loads.values()) > min(loads.values()) > 0


def test_nodes_of_one_group_are_told_apart() -> None:
    engines = tuple(msgspec.structs.replace(e, group=e.group[0]) for e in spec().engines)
    cluster = Cluster("affinity", msgspec.structs.replace(spec(), engines=engines))
    sessions = [turn(session, 0) for session in range(6)]
    first = {d.request_id // 100: d.pe for d in cluster.decide(*sessions, order=("p", "d"))}
    for request in sessions:
        cluster.end(request)
    again = [turn(session, 1) for session in (4, 0, 5, 2, 1, 3)]
    found = {d.request_id // 100: d.pe for d in cluster.decide(*again, order=("p", "d"))}
    assert found == first and len(set(first.values())) == 3


def test_affinity_reads_on_the_prefill_side_alone() -> None:
    cluster = Cluster("affinity", spec())
    decisions = cluster.decide(*(turn(session, 0) for session in range(9)))
    assert {read for d in decisions for read in d.reads} == {ReadExtent(Side.PE, 0, 8)}


def test_with_both_paths_new_sessions_are_read_on_either_side() -> None:
    cluster = Cluster("dualpath-affinity", spec(beta=100_000))
    decisions = cluster.decide(*(turn(session, 0) for session in range(10)))
    sides = [decision.reads[0].side for decision in decisions]
    assert 3 <= sides.count(Side.DE) <= 7


def test_the_node_that_would_be_through_first_reads_though_its_queue_is_longer() -> None:
    cluster = Cluster("dualpath-affinity", spec())
    home = cluster.play(turn(1, 0))
    side = home.reads[0].side
    # Its opening of 8 blocks is cached there; the other side has 3 new ones at most.
    (again,) = cluster.decide(turn(1, 1))
    assert again.reads == (ReadExtent(side, 0, 11, 11 if side is Side.DE else 8),)


def test_a_request_that_ends_in_a_node_s_queue_leaves_its_load() -> None:
    cluster = Cluster("affinity", spec())
    for number in range(3):
        request = turn(number, 0)
        cluster.scheduler.handle(Arrived(0.0, request))
        cluster.end(request)
    assert cluster.decide() == []
    assert cluster.loads() == {"p0": 0, "p1": 0, "p2": 0}


def test_the_index_knows_what_reads_and_new_blocks_leave_where() -> None:
    cluster = Cluster("dualpath-affinity", spec())
    books, index = cluster.scheduler._cluster, PrefixIndex()
    split = ReadExtent(Side.DE, 0, 2), ReadExtent(Side.PE, 2, 6)
    index.decided(books, turn(1, 0), "p1/0", "d1/0", split)
    assert index.cached_blocks(turn(1, 1)) == {"p1": 6, "d1": 2 + 3}
    # Of a session that nobody knows, nobody has anything.
    assert index.cached_blocks(turn(2, 1)) == {}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 1)), max_size=60))
def test_the_index_finds_exactly_the_nodes_whose_caches_have_some(
    story: list[tuple[int, int, int]],
) -> None:
    books, index = Cluster("affinity", spec(cache_blocks=30)).scheduler._cluster, PrefixIndex()
    turns = dict.fromkeys(range(6), 0)
    for session, pe, de in story:
        request = turn(session, turns[session])
        turns[session] += 1
        side = Side.PE if (session + pe) % 2 else Side.DE
        reads = (ReadExtent(side, 0, request.hit_tokens // BLOCK),)
        index.decided(books, request, f"p{pe}/0", f"d{de}/0", reads)
    for session in range(6):
        request = turn(session, turns[session])
        hits = {
            node: sum(e.count for e in request.context)
            - sum(e.count for e in kept.lacking(request.context))
            for node, kept in index._nodes.items()
        }
        found = index.cached_blocks(request)
        assert {node: found.get(node, 0) for node in hits} == hits


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_events_give_the_same_decisions(policy: str) -> None:
    def play() -> list[Decision]:
        cluster = Cluster(policy, spec(cache_blocks=40))
        return [cluster.play(turn(session % 7, session // 7)) for session in range(60)]

    assert play() == play()

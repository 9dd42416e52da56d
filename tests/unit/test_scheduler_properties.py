"""What holds for any sequence of arrivals, fetches and ends."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.lookup import lookup, names
from scheduler.policies.dualpath import DualPath
from scheduler.scheduler import Scheduler
from scheduler.types import (
    Arrived,
    ClusterSpec,
    Decision,
    Ended,
    EngineReport,
    EngineSpec,
    Event,
    Fetch,
    NodeReport,
    Request,
    Side,
)

HBM_TOKENS, BETA_TOKENS, BLOCK_TOKENS = 4_096, 3_000, 64
SPEC = ClusterSpec(
    tuple(
        EngineSpec(f"{node}/{gpu}", side, node, group, HBM_TOKENS)
        for side, node, group in [
            (Side.PE, "p0", "pg0"),
            (Side.PE, "p1", "pg1"),
            (Side.DE, "d0", "dg0"),
            (Side.DE, "d1", "dg0"),
            (Side.DE, "d2", "dg1"),
        ]
        for gpu in range(2)
    ),
    BLOCK_TOKENS,
    alpha_tokens=2_000,
    beta_tokens=BETA_TOKENS,
)
GROUPS = sorted({engine.group for engine in SPEC.engines})
SIDES = {engine.group: engine.side for engine in SPEC.engines}

requests = st.builds(
    lambda blocks, rest, generate: (blocks * BLOCK_TOKENS, rest, generate),
    st.integers(0, 30),
    st.integers(1, 500),
    st.integers(1, 200),
)
steps = st.lists(
    st.one_of(
        requests,
        st.tuples(st.sampled_from(GROUPS), st.floats(0, 1)),
        st.integers(0, 50).map(lambda back: ("end", back)),
    ),
    max_size=80,
)


class Engines:
    """An honest, late cluster: it reports any prefix of its decisions, not older than before."""

    def __init__(self, policy: str) -> None:
        self.scheduler = Scheduler(SPEC, lookup(policy))
        self.live: dict[int, Request] = {}
        self.waits_for_pe: list[int] = []
        self.decisions: list[Decision] = []
        self.events: list[Event] = []
        self.seen: dict[str, int] = defaultdict(int)

    def held(self, engine: str) -> list[Request]:
        """Everything decided for an engine and not over, whatever it reported."""
        return [
            self.live[decision.request_id]
            for decision in self.decisions
            if engine in (decision.pe, decision.de) and decision.request_id in self.live
        ]

    def handle(self, event: Event) -> list[Decision]:
        self.events.append(event)
        decisions = self.scheduler.handle(event)
        self.decisions += decisions
        return decisions

    def step(self, step: tuple[int, int, int] | tuple[str, float]) -> list[Decision]:
        match step:
            case (int(hit), int(rest), int(generate)):
                number = len(self.events)
                self.live[number] = Request(number, 0, 0, hit + rest, hit, generate)
                return self.handle(Arrived(0.0, self.live[number]))
            case ("end", int(back)):
                if self.live:
                    number = list(self.live)[-1 - back % len(self.live)]
                    del self.live[number]
                    return self.handle(Ended(0.0, number))
                return []
            case (str(group), float(share)):
                return self.fetch(group, share)
        raise AssertionError(step)

    def fetch(self, group: str, share: float = 1.0) -> list[Decision]:
        newest = len(self.decisions)
        members = [engine for engine in SPEC.engines if engine.group == group]
        old = self.seen[group]
        seen = self.seen[group] = old + int(share * (newest - old))
        reports = []
        for member in members:
            known = [
                self.live[decision.request_id]
                for decision in self.decisions
                if decision.seq <= seen
                and member.name in (decision.pe, decision.de)
                and decision.request_id in self.live
            ]
            tokens = [
                r.prompt_tokens if member.side is Side.PE else r.context_tokens for r in known
            ]
            free = HBM_TOKENS - sum(blocks_tokens(r) for r in known)
            reports.append(EngineReport(member.name, len(known), sum(tokens), free, seen))
        nodes = tuple(NodeReport(n, 0, seen) for n in sorted({m.node for m in members}))
        return self.handle(Fetch(0.0, group, tuple(reports), nodes))


def blocks_tokens(request: Request) -> int:
    return -(-request.context_tokens // BLOCK_TOKENS) * BLOCK_TOKENS


Step = tuple[int, int, int] | tuple[str, float]


@given(st.sampled_from(["dualpath", "static-split", "dualpath-affinity"]), steps)
@settings(max_examples=150, deadline=None)
def test_hbm_is_never_over_committed_however_late_reports_are(
    policy: str, story: list[Step]
) -> None:
    engines = Engines(policy)
    for step in story:
        engines.step(step)
        for engine in SPEC.engines:
            if engine.side is Side.DE:
                held = sum(blocks_tokens(request) for request in engines.held(engine.name))
                assert held <= HBM_TOKENS


@given(steps)
@settings(max_examples=150, deadline=None)
def test_books_are_exact_however_late_reports_are(story: list[Step]) -> None:
    engines = Engines("dualpath")
    for step in story:
        engines.step(step)
    for group in GROUPS:
        engines.fetch(group, share=0.5)
    # Ended requests leave the last report's books only with the next one, so ask for one each.
    for book in engines.scheduler._cluster.engines.values():
        turns = engines.scheduler._cluster._turns.values()
        mine = [turn.request for turn in turns if book.name in (turn.pe, turn.de)]
        side = book.spec.side
        tokens = [r.prompt_tokens if side is Side.PE else r.context_tokens for r in mine]
        assert (book.requests, book.tokens) == (len(mine), sum(tokens))


@given(steps)
@settings(max_examples=150, deadline=None)
def test_no_pe_is_placed_on_while_it_is_overloaded(story: list[Step]) -> None:
    engines = Engines("dualpath")
    cluster = engines.scheduler._cluster
    place = cluster.place

    def checked(request_id: int, engine: str) -> object:
        book = cluster.engines[engine]
        assert book.spec.side is Side.DE or book.tokens <= BETA_TOKENS
        return place(request_id, engine)

    cluster.place = checked  # type: ignore[method-assign, assignment]
    for step in story:
        engines.step(step)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_pes_are_given_in_order_of_arrival(story: list[Step]) -> None:
    engines = Engines("dualpath")
    cluster = engines.scheduler._cluster
    place, order = cluster.place, []

    def noted(request_id: int, engine: str) -> object:
        if cluster.engines[engine].spec.side is Side.PE:
            order.append(request_id)
        return place(request_id, engine)

    cluster.place = noted  # type: ignore[method-assign, assignment]
    for step in story:
        engines.step(step)
    assert order == sorted(order)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_every_request_is_decided_or_waits_where_a_fetch_finds_it(story: list[Step]) -> None:
    engines = Engines("dualpath")
    policy, cluster = engines.scheduler._policy, engines.scheduler._cluster
    assert isinstance(policy, DualPath)
    for step in story:
        engines.step(step)
        decided = {decision.request_id for decision in engines.decisions}
        turns = {n: turn for n, turn in cluster._turns.items() if n not in decided}
        assert turns.keys() == engines.live.keys() - decided
        queues = [policy._decode._waiting, *policy._decode._private.values()]
        assert policy._prefill._waiting.keys() == {n for n, t in turns.items() if t.pe is None}
        assert sorted(n for queue in queues for n in queue) == sorted(
            n for n, turn in turns.items() if turn.de is None
        )
        assert all(turn.pe is None or turn.de is None for turn in turns.values())


@given(st.sampled_from(names()), st.lists(requests, max_size=60))
@settings(max_examples=100, deadline=None)
def test_every_request_is_decided_exactly_once_as_capacity_comes_free(
    policy: str, story: list[tuple[int, int, int]]
) -> None:
    engines = Engines(policy)
    for step in story:
        engines.step(step)
    for _ in range(len(story) + 1):
        for group in GROUPS:
            engines.fetch(group)
        for decision in engines.decisions:
            if engines.live.pop(decision.request_id, None) is not None:
                engines.handle(Ended(0.0, decision.request_id))
    assert sorted(decision.request_id for decision in engines.decisions) == list(range(len(story)))
    assert [decision.seq for decision in engines.decisions] == [
        seq + 1 for seq in range(len(story))
    ]


@given(st.sampled_from(names()), steps)
@settings(max_examples=100, deadline=None)
def test_the_same_events_give_the_same_decisions(policy: str, story: list[Step]) -> None:
    engines = Engines(policy)
    for step in story:
        engines.step(step)
    again = Scheduler(SPEC, lookup(policy))
    assert [d for event in engines.events for d in again.handle(event)] == engines.decisions

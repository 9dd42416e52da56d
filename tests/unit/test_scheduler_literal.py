"""The scheduler decides what its rules, written out literally, decide for the same events."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_scheduler import LiteralScheduler

from scheduler.books import GroupsByLoad
from scheduler.cluster import Cluster
from scheduler.lookup import lookup
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

HOW = {
    "basic": "basic", "dualpath": "shorter", "pe-only": "pe", "de-only": "de",
    "static-split": "split", "round-robin": "turns", "static": "static", "least-loaded": "least",
}  # fmt: skip
BLOCK_TOKENS, HBM_TOKENS = 64, 4_096


def cluster(nodes: dict[str, list[str]], gpus: int = 2) -> ClusterSpec:
    """Nodes by group; names of prefill nodes begin with a p."""
    engines = tuple(
        EngineSpec(f"{node}/{gpu}", Side.PE if node[0] == "p" else Side.DE, node, group, HBM_TOKENS)
        for group, names in nodes.items()
        for node in names
        for gpu in range(gpus)
    )
    ordered = sorted(engines, key=lambda engine: engine.name)  # single digits: natural order
    return ClusterSpec(tuple(ordered), BLOCK_TOKENS, alpha_tokens=900, beta_tokens=1_500)


SPECS = [
    cluster(
        {"pg0": ["p0", "p1"], "pg1": ["p2"], "dg0": ["d0", "d1"], "dg1": ["d2"], "dg2": ["d3"]}
    ),
    cluster({"pg0": ["p0"], "dg0": ["d0"]}, gpus=1),
    cluster({"pg0": ["p0", "p1", "p2"], "dg0": ["d0", "d1", "d2", "d3", "d4"]}),
    cluster({"pg0": ["p0"], **{f"dg{n}": [f"d{n}"] for n in range(8)}}, gpus=1),
]

steps = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 20), st.integers(1, 300), st.integers(1, 200)),
        st.tuples(st.just("fetch"), st.integers(0, 2**32)),
        st.tuples(st.just("end"), st.integers(0, 2**32)),
    ),
    max_size=120,
)
Step = tuple[int, int, int] | tuple[str, int]


def fetch(spec: ClusterSpec, seed: int, decisions: int, now_s: float) -> Fetch:
    """Any group with any reports, few values that ties are frequent, and sometimes older ones."""
    random = Random(seed)
    group = random.choice(sorted({engine.group for engine in spec.engines}))
    members = [engine for engine in spec.engines if engine.group == group]
    reports = [
        EngineReport(
            engine.name,
            random.randrange(4),
            500 * random.randrange(4),
            HBM_TOKENS - 640 * random.randrange(7),
            random.randint(max(0, decisions - 6), decisions),
        )
        for engine in members
        if random.random() < 0.9
    ]
    nodes = [
        NodeReport(
            node,
            300 * random.randrange(5),
            random.randint(max(0, decisions - 6), decisions),
            now_s - random.randrange(4) if random.random() < 0.9 else None,
        )
        for node in sorted({engine.node for engine in members})
        if random.random() < 0.9
    ]
    return Fetch(now_s, group, tuple(reports), tuple(nodes))


def play(policy: str, spec: ClusterSpec, story: list[Step]) -> list[Decision]:
    """Both schedulers' decisions, which must be the same after each event."""
    fast, literal = Scheduler(spec, lookup(policy)), LiteralScheduler(spec, HOW[policy])
    decisions: list[Decision] = []
    for number, step in enumerate(story):
        event: Event
        now_s = number / 4
        match step:
            case (int(blocks), int(rest), int(generate)):
                hit = blocks * BLOCK_TOKENS
                event = Arrived(now_s, Request(number, number % 7, 0, hit + rest, hit, generate))
            case ("fetch", int(seed)):
                event = fetch(spec, seed, len(decisions), now_s)
            case ("end", int(seed)):
                live = list(literal.turns)
                event = Ended(now_s, live[seed % len(live)] if live else 0)
            case _:
                raise AssertionError(step)
        found = fast.handle(event)
        assert found == literal.handle(event)
        decisions += found
    for book in fast._cluster.engines.values():
        assert book.requests == literal.requests(book.spec)
        assert book.tokens == literal.tokens(book.spec)
        if book.spec.side is Side.DE:
            assert book.free_hbm_tokens == literal.free(book.spec)
    for node in fast._cluster.nodes.values():
        assert node.read_queue_tokens == literal.read_queue(node.name)
    return decisions


@pytest.mark.parametrize("policy", HOW)
@given(st.sampled_from(SPECS), steps)
@settings(max_examples=150, deadline=None)
def test_decisions_are_those_of_the_literal_rules(
    policy: str, spec: ClusterSpec, story: list[Step]
) -> None:
    play(policy, spec, story)


@pytest.mark.parametrize("policy", HOW)
@pytest.mark.parametrize("number", range(len(SPECS)))
def test_long_stories_too(policy: str, number: int) -> None:
    random = Random(number)
    story: list[Step] = []
    for _ in range(1_500):
        kind = random.random()
        if kind < 0.3:
            story.append((random.randrange(20), random.randint(1, 300), random.randint(1, 200)))
        else:
            story.append(("fetch" if kind < 0.85 else "end", random.randrange(2**32)))
    assert len(play(policy, SPECS[number], story)) > 20


def test_the_lightest_group_costs_no_look_at_the_others() -> None:
    """What was read of the groups' loads grows with what moved, not with how many there are."""
    looks: Counter[int] = Counter()
    for groups in (10, 1_000):
        nodes = {"pg": ["p0"], **{f"dg{n}": [f"d{n}"] for n in range(groups)}}
        books = Cluster(cluster(nodes, gpus=1))
        by_load: GroupsByLoad = books.groups_by_load[Side.DE]
        by_load.lightest()
        counted = type("Counted", (type(by_load.lightest()),), {
            "load_tokens": property(lambda group, size=groups: (
                looks.update([size]), group.tokens + group.queued_tokens)[1]),
        })  # fmt: skip
        for group in books.groups.values():
            group.__class__ = counted
        chosen = []
        for _ in range(groups):
            chosen.append(by_load.lightest())
            chosen[-1].queue(100)
        assert {group.queued_tokens for group in chosen} == {100}
        assert len(set(chosen)) == groups
    assert looks[1_000] <= 1_000 * 6
    assert looks[1_000] / 1_000 <= 1.1 * looks[10] / 10 + 1

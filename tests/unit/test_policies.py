"""The policies, on examples small enough to work by hand."""

from collections import Counter

import pytest

from scheduler.errors import SchedulerError
from scheduler.lookup import lookup, names
from scheduler.policy import Policy, Traits
from scheduler.scheduler import Scheduler
from scheduler.types import (
    Arrived,
    ClusterSpec,
    Decision,
    EngineReport,
    EngineSpec,
    Fetch,
    NodeReport,
    ReadExtent,
    Request,
    Side,
)


def cluster(
    prefill_nodes: int = 1,
    decode_nodes: int = 2,
    gpus: int = 2,
    alpha: int = 10_000,
    beta: int = 10_000,
    hbm: int = 100_000,
) -> ClusterSpec:
    """PE nodes share the group `pg`; each DE node is a group of its name."""
    nodes = [(Side.PE, f"p{i}", "pg") for i in range(prefill_nodes)]
    nodes += [(Side.DE, f"d{i}", f"d{i}") for i in range(decode_nodes)]
    engines = [
        EngineSpec(f"{node}/{gpu}", side, node, group, hbm)
        for side, node, group in nodes
        for gpu in range(gpus)
    ]
    return ClusterSpec(tuple(engines), 64, alpha, beta)


def request(number: int, prompt: int = 640, hit: int = 576, generate: int = 64) -> Request:
    return Request(number, 0, 0, prompt, hit, generate)


def arrive(scheduler: Scheduler, *requests: Request) -> list[Decision]:
    return [d for r in requests for d in scheduler.handle(Arrived(0.0, r))]


def fetch(
    scheduler: Scheduler,
    group: str,
    tokens: dict[str, int] | None = None,
    queues: dict[str, int] | None = None,
    counts: dict[str, int] | None = None,
    free: dict[str, int] | None = None,
    *,
    seen: int = 0,
) -> list[Decision]:
    """A fetch; engines that `tokens` names report, with 100,000 tokens free if not said."""
    engines = tuple(
        EngineReport(name, (counts or {}).get(name, 0), held, (free or {}).get(name, 100_000), seen)
        for name, held in (tokens or {}).items()
    )
    nodes = tuple(NodeReport(name, queue, seen) for name, queue in (queues or {}).items())
    return scheduler.handle(Fetch(0.0, group, engines, nodes))


def serve(policy: Policy, spec: ClusterSpec, count: int) -> list[Decision]:
    """Each request alone: it arrives, then every group fetches."""
    scheduler = Scheduler(spec, policy)
    groups = sorted({engine.group for engine in spec.engines}, reverse=True)
    decisions = []
    for number in range(count):
        decisions += arrive(scheduler, request(number))
        for group in groups:
            decisions += fetch(scheduler, group)
    return decisions


# Algorithm 1


def placed_on(decisions: list[Decision]) -> list[str]:
    return [decision.pe for decision in decisions]


def prefill(
    spec: ClusterSpec,
    requests: list[Request],
    tokens: dict[str, int],
    queues: dict[str, int] | None = None,
    counts: dict[str, int] | None = None,
) -> list[str]:
    """PEs in order of request for a fetch with these reports; every DE is chosen before."""
    scheduler = Scheduler(spec, lookup("dualpath"))
    arrive(scheduler, *requests)
    assert fetch(scheduler, "d0") == []
    decisions = fetch(scheduler, "pg", tokens, queues, counts)
    assert [decision.request_id for decision in decisions] == sorted(
        decision.request_id for decision in decisions
    )
    return placed_on(decisions)


def test_the_pe_with_the_fewest_tokens_prefills_and_each_choice_moves_the_next() -> None:
    # p0/0 holds 1,000 and p0/1 holds 300: 640 there makes 940, 640 more makes 1,580.
    pes = prefill(
        cluster(decode_nodes=1),
        [request(1), request(2), request(3)],
        tokens={"p0/0": 1_000, "p0/1": 300},
    )
    assert pes == ["p0/1", "p0/1", "p0/0"]


def test_an_overloaded_pe_gets_nothing_and_the_queue_waits() -> None:
    # beta = 1,000: 900 takes one more (1,540, overloaded), 1,001 takes none.
    pes = prefill(
        cluster(decode_nodes=1, beta=1_000),
        [request(1), request(2)],
        tokens={"p0/0": 1_001, "p0/1": 900},
    )
    assert pes == ["p0/1"]


@pytest.mark.parametrize(("beta", "given"), [(640, 2), (639, 1)])
def test_beta_itself_is_no_overload_in_mid_fetch(beta: int, given: int) -> None:
    """C1 is tok_e > beta: a PE that one request brings to beta exactly gets another."""
    scheduler = Scheduler(cluster(1, 1, gpus=1, beta=beta), lookup("dualpath"))
    arrive(scheduler, request(1), request(2), request(3))
    assert fetch(scheduler, "d0") == []
    assert [d.request_id for d in fetch(scheduler, "pg")] == [1, 2][:given]


def test_a_short_read_queue_is_preferred_over_fewer_tokens() -> None:
    pes = prefill(
        cluster(prefill_nodes=2, decode_nodes=1, gpus=1, alpha=1_000),
        [request(1, hit=0)],
        tokens={"p0/0": 0, "p1/0": 5_000},
        queues={"p0": 1_001, "p1": 1_000},
    )
    assert pes == ["p1/0"]


def test_a_long_read_queue_is_taken_once_no_short_one_is_left() -> None:
    pes = prefill(
        cluster(prefill_nodes=2, decode_nodes=1, gpus=1, alpha=1_000, beta=1_000),
        [request(1, hit=0), request(2, hit=0)],
        tokens={"p0/0": 0, "p1/0": 900},
        queues={"p0": 1_001, "p1": 1_000},
    )
    assert pes == ["p1/0", "p0/0"]


def test_a_read_given_in_the_loop_can_make_a_queue_long() -> None:
    # The DE's queue is long, so p0 reads request 1: 500 + 576 > alpha, and p1 is preferred.
    scheduler = Scheduler(
        cluster(prefill_nodes=2, decode_nodes=1, gpus=1, alpha=1_000), lookup("dualpath")
    )
    arrive(scheduler, request(1), request(2))
    fetch(scheduler, "d0", queues={"d0": 9_000})
    decisions = fetch(scheduler, "pg", {"p0/0": 0, "p1/0": 2_000}, queues={"p0": 500, "p1": 500})
    assert placed_on(decisions) == ["p0/0", "p1/0"]


def test_equal_tokens_go_to_fewer_requests_then_to_natural_order() -> None:
    spec = cluster(decode_nodes=1, gpus=3)
    pes = prefill(
        spec,
        [request(1)],
        tokens={"p0/0": 500, "p0/1": 500, "p0/2": 500},
        counts={"p0/0": 2, "p0/1": 1, "p0/2": 1},
    )
    assert pes == ["p0/1"]


# The two levels of the DE choice


def decode(
    spec: ClusterSpec,
    requests: list[Request],
    tokens: dict[str, int],
    counts: dict[str, int] | None = None,
    free: dict[str, int] | None = None,
) -> list[str]:
    """DEs of the requests that a fetch of `d0` places; their PEs are chosen before."""
    scheduler = Scheduler(spec, lookup("dualpath"))
    arrive(scheduler, *requests)
    assert fetch(scheduler, "pg") == []
    return [d.de for d in fetch(scheduler, "d0", tokens, counts=counts, free=free)]


def test_a_burst_is_spread_over_groups_by_their_tokens() -> None:
    scheduler = Scheduler(cluster(gpus=1), lookup("dualpath"))
    arrive(scheduler, *(request(number) for number in range(5)))
    fetch(scheduler, "pg")
    # Contexts are 704 tokens. d0 holds 1,500, so d1 gets 704, 1,408, 2,112 before d0 gets one.
    first = fetch(scheduler, "d0", {"d0/0": 1_500})
    second = fetch(scheduler, "d1", {"d1/0": 0})
    assert [decision.request_id for decision in first] == [3]
    assert [decision.request_id for decision in second] == [0, 1, 2, 4]


def test_what_waits_in_a_private_queue_counts_for_its_group() -> None:
    scheduler = Scheduler(cluster(gpus=1), lookup("dualpath"))
    arrive(scheduler, request(1))
    fetch(scheduler, "pg")
    assert fetch(scheduler, "d0", {"d0/0": 0}, free={"d0/0": 0}) == []
    arrive(scheduler, request(2))
    fetch(scheduler, "pg")
    assert [decision.request_id for decision in fetch(scheduler, "d1")] == [2]


def test_below_z_the_fewest_requests_win_over_the_fewest_tokens() -> None:
    # Z = 1.05 x (704 + 1,000 + 300) / 2 = 1,052.1; d0/1 would hold 1,004 and stays normal,
    # d0/0 would hold 1,704 and is high.
    des = decode(
        cluster(decode_nodes=1),
        [request(1)],
        tokens={"d0/0": 1_000, "d0/1": 300},
        counts={"d0/0": 1, "d0/1": 5},
    )
    assert des == ["d0/1"]
    # With 700 and 640 held Z is 1,073.1 and both are high: fewest tokens. Three requests
    # make Z 1,812.3, both are normal at first: fewest requests, though more tokens.
    tokens, counts = {"d0/0": 700, "d0/1": 640}, {"d0/0": 1, "d0/1": 5}
    spec = cluster(decode_nodes=1)
    assert decode(spec, [request(1)], tokens=tokens, counts=counts) == ["d0/1"]
    three = [request(number) for number in range(3)]
    assert decode(spec, three, tokens=tokens, counts=counts)[0] == "d0/0"


def test_the_factor_of_z_is_1_05() -> None:
    spec = cluster(decode_nodes=1)
    tokens, counts = {"d0/0": 36, "d0/1": 35}, {"d0/0": 0, "d0/1": 9}
    # The first request would make 740 or 739. R of 704 + 640: Z = 1.05 x 1,415 / 2 = 742.9,
    # so both are normal (at 1.04 Z is 735.8, and the least tokens would win).
    normal = [request(1), request(2, prompt=576, hit=0)]
    assert decode(spec, normal, tokens, counts)[0] == "d0/0"
    # R of 704 + 630: Z = 1.05 x 1,405 / 2 = 737.6, so both are high (at 1.06 Z is 744.7).
    high = [request(1), request(2, prompt=566, hit=0)]
    assert decode(spec, high, tokens, counts)[0] == "d0/1"


def test_a_de_without_room_is_passed_over_and_a_full_group_waits() -> None:
    # A context of 704 takes 11 blocks of 64.
    spec = cluster(decode_nodes=1)
    held = {"d0/0": 0, "d0/1": 5_000}
    one = [request(1)]
    assert decode(spec, one, tokens=held, free={"d0/0": 703, "d0/1": 704}) == ["d0/1"]
    # 703 + 703 would hold it in one piece; in two it must wait.
    assert decode(spec, one, tokens=held, free={"d0/0": 703, "d0/1": 703}) == []


def test_what_waits_for_room_is_placed_when_it_comes() -> None:
    scheduler = Scheduler(cluster(decode_nodes=1, gpus=1), lookup("dualpath"))
    arrive(scheduler, request(1), request(2))
    fetch(scheduler, "pg")
    first = fetch(scheduler, "d0", {"d0/0": 0}, free={"d0/0": 1_000})
    assert [decision.request_id for decision in first] == [1]
    # The report is from before: what was promised still counts.
    assert fetch(scheduler, "d0", {"d0/0": 0}, free={"d0/0": 1_000}) == []
    later = fetch(scheduler, "d0", {"d0/0": 0}, free={"d0/0": 1_000}, seen=1)
    assert [decision.request_id for decision in later] == [2]


# The read path


def sides(decisions: list[Decision]) -> list[Side]:
    return [read.side for decision in decisions for read in decision.reads]


@pytest.mark.parametrize(
    ("queues", "side"),
    [((100, 200), Side.PE), ((200, 100), Side.DE), ((0, 1), Side.PE), ((1, 0), Side.DE)],
)
def test_the_node_with_the_shorter_queue_reads(queues: tuple[int, int], side: Side) -> None:
    scheduler = Scheduler(cluster(decode_nodes=1), lookup("dualpath"))
    arrive(scheduler, request(1))
    fetch(scheduler, "pg", queues={"p0": queues[0]})
    decisions = fetch(scheduler, "d0", queues={"d0": queues[1]})
    assert [decision.reads for decision in decisions] == [(ReadExtent(side, 0, 9),)]


@pytest.mark.parametrize("queue", [0, 400])
def test_between_equal_queues_the_node_reads_that_was_given_fewer_tokens_so_far(queue: int) -> None:
    scheduler = Scheduler(cluster(decode_nodes=1), lookup("dualpath"))
    taken = []
    for number, blocks in enumerate([2, 1, 1, 5, 3, 3]):  # given so far: 2:0, 2:1, 2:2, 7:2, 7:5
        arrive(scheduler, request(number, hit=64 * blocks))
        fetch(scheduler, "pg", queues={"p0": queue}, seen=number)
        taken += sides(fetch(scheduler, "d0", queues={"d0": queue}, seen=number))
    assert taken == [Side.PE, Side.DE, Side.DE, Side.PE, Side.DE, Side.DE]


def read_by(pe: NodeReport, de: NodeReport, now_s: float) -> Side:
    """alpha = 3,000: a storage NIC reads 1,000 tokens a second."""
    scheduler = Scheduler(cluster(decode_nodes=1, alpha=3_000), lookup("dualpath"))
    arrive(scheduler, request(1))
    scheduler.handle(Fetch(now_s, "pg", (), (pe,)))
    (side,) = sides(scheduler.handle(Fetch(now_s, "d0", (), (de,))))
    return side


def test_a_queue_is_as_long_as_it_should_be_by_now() -> None:
    # 500 tokens of 2.0 s ago are long read, 300 of 0.1 s ago not yet.
    assert read_by(NodeReport("p0", 500, 0, 8.0), NodeReport("d0", 300, 0, 9.9), 10.0) is Side.PE
    assert read_by(NodeReport("p0", 300, 0, 9.9), NodeReport("d0", 500, 0, 8.0), 10.0) is Side.DE
    assert read_by(NodeReport("p0", 250, 0, 9.9), NodeReport("d0", 300, 0, 9.9), 10.0) is Side.PE
    # What does not say when it was counted, was counted just now.
    assert read_by(NodeReport("p0", 300, 0, 9.9), NodeReport("d0", 250, 0), 10.0) is Side.PE


def test_a_request_without_hits_reads_nothing() -> None:
    for name in names():
        scheduler = Scheduler(cluster(decode_nodes=1), lookup(name))
        decisions = arrive(scheduler, request(1, hit=0))
        decisions += fetch(scheduler, "pg") + fetch(scheduler, "d0")
        assert [decision.reads for decision in decisions] == [()]


def test_a_slow_nic_attracts_fewer_reads_although_nobody_says_that_it_is_slow() -> None:
    """Fluid queues: between two requests of 576 tokens p0 reads 450 tokens and d0 reads 150."""

    def share(name: str) -> Counter[Side]:
        scheduler = Scheduler(cluster(decode_nodes=1, alpha=10**9, beta=10**9), lookup(name))
        queue = {Side.PE: 0, Side.DE: 0}
        taken: Counter[Side] = Counter()
        for number in range(200):
            queue[Side.PE] = max(0, queue[Side.PE] - 450)
            queue[Side.DE] = max(0, queue[Side.DE] - 150)
            arrive(scheduler, request(number))
            idle = {"d0/0": 0, "d0/1": 0}
            fetch(scheduler, "pg", queues={"p0": queue[Side.PE]}, seen=number)
            decisions = fetch(scheduler, "d0", idle, {"d0": queue[Side.DE]}, seen=number)
            for side in sides(decisions):
                taken[side] += 1
                queue[side] += 576
        return taken

    aware, blind = share("dualpath"), share("static-split")
    assert aware[Side.PE] > 2.5 * aware[Side.DE]
    assert blind[Side.PE] == blind[Side.DE] == 100


class Torn:
    """Reads that leave a gap, overlap, or go past the hits."""

    traits = Traits(layerwise=True)
    ended = lookup("basic").ended
    arrived = lookup("basic").arrived
    fetch = lookup("basic").fetch

    def __init__(self, *extents: tuple[int, int]) -> None:
        self._extents = extents

    def reads(self, cluster: object, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        sides = [Side.DE, Side.PE]
        return tuple(ReadExtent(sides[i % 2], *e) for i, e in enumerate(self._extents))


@pytest.mark.parametrize("extents", [[(0, 8)], [(0, 5), (4, 5)], [(0, 4), (5, 4)], [(0, 10)], []])
def test_reads_that_do_not_cover_the_hits_are_refused(extents: list[tuple[int, int]]) -> None:
    with pytest.raises(SchedulerError, match="9 hit blocks"):
        arrive(Scheduler(cluster(), Torn(*extents)), request(1))


def test_a_policy_may_split_a_request_over_both_sides() -> None:
    decisions = arrive(Scheduler(cluster(), Torn((4, 5), (0, 4))), request(1))
    assert sides(decisions) == [Side.DE, Side.PE]

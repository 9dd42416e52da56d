"""The policies that `dualpath` is compared with."""

from collections import Counter

import msgspec
import pytest
from test_policies import arrive, cluster, fetch, placed_on, request, serve, sides

from scheduler.lookup import lookup
from scheduler.scheduler import Scheduler
from scheduler.types import (
    Decision,
    Request,
    Side,
)


def readers(decisions: list[Decision]) -> Counter[str]:
    engine = {Side.PE: lambda d: d.pe, Side.DE: lambda d: d.de}
    return Counter(engine[d.reads[0].side](d).split("/")[0] for d in decisions)


def test_static_split_gives_each_nic_the_same_number_of_reads() -> None:
    assert readers(serve(lookup("static-split"), cluster(beta=10**9), 60)) == {
        "p0": 20,
        "d0": 20,
        "d1": 20,
    }


def test_static_split_ignores_queues() -> None:
    scheduler = Scheduler(cluster(decode_nodes=1), lookup("static-split"))
    arrive(scheduler, request(1))
    fetch(scheduler, "pg", queues={"p0": 10_000})
    assert sides(fetch(scheduler, "d0", queues={"d0": 0})) == [Side.PE]


def test_round_robin_alternates_sides_over_all_and_for_each_pair_of_engines() -> None:
    decisions = serve(lookup("round-robin"), cluster(gpus=1, prefill_nodes=2, decode_nodes=3), 24)
    assert placed_on(decisions) == ["p0/0", "p1/0"] * 12
    assert [decision.de for decision in decisions] == ["d0/0", "d1/0", "d2/0"] * 8
    assert sides(decisions)[:7] == [Side.PE, Side.DE] * 3 + [Side.DE]
    # Half of all reads on two prefill nodes, half on three decode nodes: none is left out.
    assert readers(decisions) == {"p0": 6, "p1": 6, "d0": 4, "d1": 4, "d2": 4}


@pytest.mark.parametrize("nodes", [(1, 1), (1, 2), (2, 1), (2, 4), (3, 5)])
def test_round_robin_leaves_no_node_out_whatever_the_shape(nodes: tuple[int, int]) -> None:
    spec = cluster(gpus=1, prefill_nodes=nodes[0], decode_nodes=nodes[1])
    taken = readers(serve(lookup("round-robin"), spec, 120))
    assert taken == {
        **{f"p{n}": 60 / nodes[0] for n in range(nodes[0])},
        **{f"d{n}": 60 / nodes[1] for n in range(nodes[1])},
    }


def test_static_gives_an_agent_the_same_engines_and_side_whatever_the_load() -> None:
    scheduler = Scheduler(cluster(gpus=1, prefill_nodes=2, decode_nodes=3), lookup("static"))
    turns = [Request(n, n % 12, n // 12, 640, 576, 64) for n in range(48)]
    decisions = arrive(scheduler, *turns)
    by_agent = {
        agent: {(d.pe, d.de, d.reads[0].side) for d in decisions if d.request_id % 12 == agent}
        for agent in range(12)
    }
    assert all(len(met) == 1 for met in by_agent.values())
    assert len({next(iter(met)) for met in by_agent.values()}) == 12


def drawn(seed: int, *numbers: int) -> list[tuple[str, str, Side]]:
    spec = msgspec.structs.replace(cluster(prefill_nodes=2, decode_nodes=3), seed=seed)
    decisions = arrive(Scheduler(spec, lookup("random")), *(request(number) for number in numbers))
    return [(decision.pe, decision.de, decision.reads[0].side) for decision in decisions]


def test_random_draws_the_same_lots_for_the_same_seed_and_request_whatever_came_before() -> None:
    assert drawn(7, *range(50)) == drawn(7, *range(50))
    assert drawn(7, *range(50))[40:] == drawn(7, *range(40, 50))
    assert drawn(7, *range(50)) != drawn(8, *range(50))


def test_random_draws_pe_de_and_side_alike_and_apart() -> None:
    # 4 x 6 x 2 = 48 outcomes, 100 of each: five deviations of sqrt(100) around it.
    counts = Counter(drawn(1, *range(4_800)))
    assert len(counts) == 48
    assert all(50 <= count <= 150 for count in counts.values())


def test_least_loaded_takes_the_fewest_tokens_at_arrival_and_the_shorter_queue() -> None:
    scheduler = Scheduler(cluster(), lookup("least-loaded"))
    fetch(scheduler, "pg", {"p0/0": 1_000, "p0/1": 500}, {"p0": 700})
    fetch(scheduler, "d0", {"d0/0": 900, "d0/1": 800}, {"d0": 100})
    fetch(scheduler, "d1", {"d1/0": 100, "d1/1": 950}, {"d1": 800})
    # 640 more on p0/1 make 1,140; contexts are 704, and 804 of d1/0 is more than d0/1's 800.
    first, second = arrive(scheduler, request(1), request(2))
    assert (first.pe, first.de, sides([first])) == ("p0/1", "d1/0", [Side.PE])
    assert (second.pe, second.de, sides([second])) == ("p0/0", "d0/1", [Side.DE])


def test_basic_decides_at_arrival_in_turn_and_only_prefill_nodes_read() -> None:
    scheduler = Scheduler(cluster(gpus=1, prefill_nodes=2, decode_nodes=3), lookup("basic"))
    decisions = arrive(scheduler, *(request(number) for number in range(6)))
    assert placed_on(decisions) == ["p0/0", "p1/0"] * 3
    assert [decision.de for decision in decisions] == ["d0/0", "d1/0", "d2/0"] * 2
    assert [decision.seq for decision in decisions] == [1, 2, 3, 4, 5, 6]
    assert set(sides(decisions)) == {Side.PE}
    assert fetch(scheduler, "pg") == []

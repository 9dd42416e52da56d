"""What the scheduler knows: reports, promises, ends, and contradictions."""

from collections.abc import Callable
from typing import Any

import pytest

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.errors import SchedulerError
from scheduler.lookup import lookup
from scheduler.scheduler import Scheduler
from scheduler.types import (
    Arrived,
    ClusterSpec,
    Ended,
    EngineReport,
    EngineSpec,
    Fetch,
    NodeReport,
    ReadExtent,
    Request,
    Side,
)


def spec(hbm_tokens: int = 10_000) -> ClusterSpec:
    engines = (
        EngineSpec("p0/0", Side.PE, "p0", "pg", hbm_tokens),
        EngineSpec("d0/0", Side.DE, "d0", "dg", hbm_tokens),
        EngineSpec("d0/1", Side.DE, "d0", "dg", hbm_tokens),
    )
    return ClusterSpec(engines, block_tokens=64, alpha_tokens=5_000, beta_tokens=5_000)


def request(number: int, prompt: int = 100, hit: int = 64, generate: int = 10) -> Request:
    return Request(number, 0, 0, prompt, hit, generate)


def decided(cluster: Cluster, number: int, de: str = "d0/0") -> int:
    cluster.arrive(request(number))
    cluster.place(number, "p0/0")
    cluster.place(number, de)
    return cluster.decide(number, "p0/0", de, (ReadExtent(Side.PE, 0, 1),)).seq


def prefill_fetch(seen: int, requests: int = 0, tokens: int = 0, queue: int = 0) -> Fetch:
    return Fetch(
        0.0,
        "pg",
        (EngineReport("p0/0", requests, tokens, 10_000, seen),),
        (NodeReport("p0", queue, seen),),
    )


def test_a_chosen_request_counts_before_it_is_decided() -> None:
    cluster = Cluster(spec())
    cluster.arrive(request(1))
    cluster.place(1, "d0/0")
    book = cluster.engines["d0/0"]
    # 110 tokens of context lie in two blocks of 64.
    assert (book.requests, book.tokens, book.free_hbm_tokens) == (1, 110, 10_000 - 128)


def test_a_report_that_saw_no_decision_forgets_none() -> None:
    cluster = Cluster(spec())
    decided(cluster, 1)
    cluster.report(prefill_fetch(seen=0))
    assert (cluster.engines["p0/0"].requests, cluster.engines["p0/0"].tokens) == (1, 100)
    assert cluster.nodes["p0"].read_queue_tokens == 64


def test_a_report_replaces_the_decisions_it_saw_and_keeps_the_later_ones() -> None:
    cluster = Cluster(spec())
    first = decided(cluster, 1)
    decided(cluster, 2)
    cluster.arrive(request(3))
    cluster.place(3, "p0/0")
    cluster.report(prefill_fetch(seen=first, requests=1, tokens=70, queue=30))
    assert cluster.engines["p0/0"].requests == 3
    assert cluster.engines["p0/0"].tokens == 70 + 100 + 100
    assert cluster.nodes["p0"].read_queue_tokens == 30 + 64


def test_a_request_chosen_early_and_decided_late_is_not_taken_for_seen() -> None:
    cluster = Cluster(spec())
    cluster.arrive(request(1))
    cluster.place(1, "p0/0")
    decided(cluster, 2)
    cluster.place(1, "d0/1")
    cluster.decide(1, "p0/0", "d0/1", (ReadExtent(Side.DE, 0, 1),))
    cluster.report(prefill_fetch(seen=1, requests=1, tokens=100))
    assert cluster.engines["p0/0"].requests == 2
    assert cluster.nodes["d0"].read_queue_tokens == 64


def test_an_engine_that_starts_over_is_promised_what_is_still_live() -> None:
    cluster = Cluster(spec())
    decided(cluster, 1)
    decided(cluster, 2)
    cluster.report(prefill_fetch(seen=2))
    cluster.end(1)
    cluster.report(prefill_fetch(seen=0))
    assert cluster.engines["p0/0"].requests == 1


@pytest.mark.parametrize("seen", [0, 1])
def test_an_end_frees_what_no_report_knew_of(seen: int) -> None:
    cluster = Cluster(spec())
    decided(cluster, 1)
    cluster.report(prefill_fetch(seen, requests=seen, tokens=100 * seen, queue=64 * seen))
    cluster.end(1)
    # What a report knew of leaves with the next report, not before.
    assert cluster.engines["p0/0"].tokens == 100 * seen
    assert cluster.nodes["p0"].read_queue_tokens == 64 * seen
    assert cluster.engines["d0/0"].free_hbm_tokens == 10_000
    cluster.report(prefill_fetch(seen))
    assert cluster.engines["p0/0"].requests == 0
    assert cluster.nodes["p0"].read_queue_tokens == 0


def test_a_request_that_fails_while_queued_is_never_decided() -> None:
    scheduler = Scheduler(spec(), lookup("dualpath"))
    scheduler.handle(Arrived(0.0, request(1)))
    scheduler.handle(Arrived(0.0, request(2)))
    scheduler.handle(Ended(0.0, 1, "timeout"))
    scheduler.handle(Fetch(0.0, "pg", (), ()))
    decisions = scheduler.handle(Fetch(0.0, "dg", (), ()))
    assert [decision.request_id for decision in decisions] == [2]


def test_a_request_that_fails_between_pe_and_de_frees_its_pe() -> None:
    scheduler = Scheduler(spec(), lookup("dualpath"))
    scheduler.handle(Arrived(0.0, request(1)))
    scheduler.handle(Fetch(0.0, "pg", (), ()))
    scheduler.handle(Ended(0.0, 1, "timeout"))
    assert scheduler._cluster.engines["p0/0"].tokens == 0
    assert scheduler.handle(Fetch(0.0, "dg", (), ())) == []


def test_two_parts_of_a_turn_may_report_its_end() -> None:
    scheduler = Scheduler(spec(), lookup("basic"))
    scheduler.handle(Arrived(0.0, request(1)))
    scheduler.handle(Ended(0.0, 1, "pe read failed"))
    scheduler.handle(Ended(0.0, 1, "de read failed"))
    assert scheduler._cluster.engines["p0/0"].requests == 0


def test_an_ended_id_may_be_used_again() -> None:
    scheduler = Scheduler(spec(), lookup("basic"))
    scheduler.handle(Arrived(0.0, request(1)))
    scheduler.handle(Ended(0.0, 1))
    assert [decision.seq for decision in scheduler.handle(Arrived(0.0, request(1)))] == [2]


Contradiction = Callable[[Cluster], object]


@pytest.mark.parametrize(
    ("contradiction", "names"),
    [
        (lambda c: (c.arrive(request(1)), c.arrive(request(1))), "request 1 arrived twice"),
        (lambda c: c.arrive(request(1, hit=65)), "whole blocks"),
        (lambda c: c.arrive(request(1, prompt=100, hit=128)), "part of the prompt"),
        (lambda c: c.arrive(request(1, prompt=20_000)), "needs 20032 tokens of HBM"),
        (lambda c: c.place(1, "p0/0"), "request is not live"),
        (lambda c: (c.arrive(request(1)), c.place(1, "x0/0")), "engine is not in the cluster"),
        (lambda c: (decided(c, 1), c.place(1, "d0/1")), "already has a DE"),
        (lambda c: c.report(Fetch(0.0, "qg", (), ())), "'qg' fetched"),
        (
            lambda c: c.report(Fetch(0.0, "pg", (EngineReport("d0/0", 0, 0, 0, 0),), ())),
            "'d0/0', which is not part of it",
        ),
        (
            lambda c: c.report(Fetch(0.0, "pg", (), (NodeReport("d0", 0, 0),))),
            "'d0', which is not part of it",
        ),
        (lambda c: c.report(prefill_fetch(seen=1)), "only 0 were made"),
    ],
)
def test_a_contradiction_is_refused_by_name(contradiction: Contradiction, names: str) -> None:
    with pytest.raises(SchedulerError, match=names):
        contradiction(Cluster(spec()))


@pytest.mark.parametrize(
    ("engine", "names"),
    [
        (EngineSpec("p0/0", Side.PE, "p0", "pg", 1), "p0/0 is there twice"),
        (EngineSpec("d1/0", Side.DE, "d1", "pg", 1), "has PEs and DEs"),
        (EngineSpec("d0/2", Side.DE, "d0", "other", 1), "in different groups|in the groups"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(engine: EngineSpec, names: str) -> None:
    whole = spec()
    with pytest.raises(SchedulerError, match=names):
        Cluster(ClusterSpec((*whole.engines, engine), 64, 1, 1))


def test_a_cluster_of_empty_blocks_is_refused() -> None:
    with pytest.raises(SchedulerError, match="blocks of 0 tokens"):
        Cluster(ClusterSpec(spec().engines, 0, 1, 1))


def test_a_cluster_without_a_side_is_refused() -> None:
    with pytest.raises(SchedulerError, match="no DE"):
        Cluster(ClusterSpec(spec().engines[:1], 64, 1, 1))


def test_a_wrong_report_changes_no_book() -> None:
    cluster = Cluster(spec())
    good, bad = EngineReport("p0/0", 1, 50, 0, 0), EngineReport("p9/0", 0, 0, 0, 0)
    with pytest.raises(SchedulerError, match="p9/0"):
        cluster.report(Fetch(0.0, "pg", (good, bad), ()))
    assert cluster.engines["p0/0"].tokens == 0


def test_engines_are_in_natural_order() -> None:
    names = ["p10/0", "p2/10", "p2/9"]
    engines = [EngineSpec(name, Side.PE, name.split("/")[0], "pg", 1_000) for name in names]
    cluster = Cluster(ClusterSpec((*engines, spec().engines[1]), 64, 1, 1))
    assert [book.name for book in cluster.on(Side.PE)] == ["p2/9", "p2/10", "p10/0"]


def test_who_sorts_the_books_sorts_a_copy() -> None:
    cluster = Cluster(spec())
    for engines in (cluster.on(Side.DE), cluster.groups["dg"].engines):
        assert isinstance(engines, tuple) and [book.name for book in engines] == ["d0/0", "d0/1"]


@pytest.mark.parametrize(("cached", "says"), [
    (2, "expects 2 of them in DRAM"), (-1, "expects -1 of them in DRAM"),
    (0.5, "are no tuple of ReadExtent"), (None, "are no tuple of ReadExtent"),
])  # fmt: skip
def test_a_read_expects_a_part_of_itself_in_dram(cached: Any, says: str) -> None:
    reads = (ReadExtent(Side.PE, 0, 1, cached),)
    with pytest.raises(SchedulerError, match=says):
        path.check(Cluster(spec()), request(1), reads)

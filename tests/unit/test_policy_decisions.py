"""One decision replaced, the others kept; and what the books say to whoever replaces it."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from test_policies import arrive, cluster, fetch, request

from scheduler.cluster import Cluster
from scheduler.errors import PolicyFailed, SchedulerError
from scheduler.policies.dualpath import DualPath
from scheduler.policy import Placement
from scheduler.scheduler import Scheduler
from scheduler.types import Arrived, Ended, Fetch, Side


class Newest(DualPath):
    """PEs take the newest request first, and at most one at a fetch."""

    def prefill(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        waiting = cluster.waiting(Side.PE)
        if waiting:
            yield Placement(waiting[-1].id, cluster.groups[group].engines[0].name)


def test_one_side_is_replaced_and_the_other_decides_as_before() -> None:
    ours, theirs = Scheduler(cluster(), Newest()), Scheduler(cluster(), DualPath())
    for scheduler in (ours, theirs):
        arrive(scheduler, *(request(n) for n in (1, 2, 3)))
        for group in ("d0", "d1"):
            assert fetch(scheduler, group) == []
    found = [decision for _ in range(4) for decision in fetch(ours, "pg")]
    assert [(d.request_id, d.pe) for d in found] == [(3, "p0/0"), (2, "p0/0"), (1, "p0/0")]
    assert {d.request_id: d.de for d in found} == {d.request_id: d.de for d in fetch(theirs, "pg")}


class Urgent(DualPath):
    """Requests of agent 7 go first, whatever the load; the others as in the paper."""

    def prefill(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        yield from self.first(cluster, group, Side.PE)
        yield from super().prefill(cluster, group)

    def decode(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        yield from self.first(cluster, group, Side.DE)
        yield from super().decode(cluster, group)

    def first(self, cluster: Cluster, group: str, side: Side) -> Iterator[Placement]:
        for one in cluster.waiting(side):
            if one.agent == 7:
                yield Placement(one.id, cluster.groups[group].engines[-1].name)


def test_some_requests_are_placed_and_the_rest_is_left_to_the_paper() -> None:
    scheduler = Scheduler(cluster(beta=1_000), Urgent())
    arrive(scheduler, *(request(n) for n in (1, 2, 3)))
    scheduler.handle(Arrived(0.0, type(request(4))(4, 7, 0, 640, 576, 64)))
    assert fetch(scheduler, "d0") == []  # the global queue is spread over both groups
    found = fetch(scheduler, "pg") + fetch(scheduler, "d1")
    assert found[0].request_id == 4 and (found[0].pe, found[0].de) == ("p0/1", "d0/1")
    assert sorted(d.request_id for d in found) == [1, 2, 3, 4]
    assert fetch(scheduler, "pg") == fetch(scheduler, "d0") == fetch(scheduler, "d1") == []


def test_who_waits_is_told_in_order_of_arrival_until_placed_or_over() -> None:
    books = Cluster(cluster())
    for number in (5, 2, 9):
        books.arrive(request(number))
    books.place(2, "p0/0")
    assert [one.id for one in books.waiting(Side.PE)] == [5, 9]
    assert [one.id for one in books.waiting(Side.DE)] == [5, 2, 9]
    books.end(5)
    books.end(5)
    assert [one.id for one in books.waiting(Side.PE)] == [9]
    assert [one.id for one in books.waiting(Side.DE)] == [2, 9]


def test_none_is_no_placement() -> None:
    class Silent(DualPath):
        def arrived(self, cluster: Cluster, request: Any) -> Any:
            self.came = request.id

        def prefill(self, cluster: Cluster, group: str) -> Any:
            return None

        def ended(self, request_id: int) -> None:
            self.gone = request_id

    policy = Silent()
    scheduler = Scheduler(cluster(), policy)
    assert arrive(scheduler, request(1)) == fetch(scheduler, "pg") == []
    assert scheduler.handle(Ended(0.0, 1)) == []
    assert policy.came == policy.gone == 1


class Stubborn(DualPath):
    """Places on an engine that is not there, and does not want to hear of it."""

    told = 0

    def prefill(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        while True:
            try:
                yield Placement(1, "p9/9")
            except SchedulerError:
                self.told += 1


def test_a_policy_cannot_swallow_what_it_did_wrong() -> None:
    policy = Stubborn()
    scheduler = Scheduler(cluster(), policy)
    arrive(scheduler, request(1))
    with pytest.raises(PolicyFailed, match=r"failed on request 1 at .* 'p9/9', but this engine is"):
        fetch(scheduler, "pg")
    assert policy.told == 1


class Quitter(DualPath):
    """Stops as soon as it hears of an error, as if nothing had been wrong."""

    def prefill(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        with suppress(SchedulerError):
            yield Placement(1, "p9/9")


def test_one_that_stops_at_its_error_ends_the_run_with_that_error() -> None:
    scheduler = Scheduler(cluster(), Quitter())
    arrive(scheduler, request(1))
    with pytest.raises(PolicyFailed, match=r"failed on request 1 at .* 'p9/9', but this engine is"):
        fetch(scheduler, "pg")


@pytest.mark.parametrize("event", [
    Arrived(0.0, request(1, hit=5)), Fetch(0.0, "nowhere", (), ()),
])  # fmt: skip
def test_an_event_that_cannot_be_is_not_the_policys_failure(event: Any) -> None:
    with pytest.raises(SchedulerError) as caught:
        Scheduler(cluster(), DualPath()).handle(event)
    assert not isinstance(caught.value, PolicyFailed)


def test_an_error_of_a_fetch_names_whom_it_was_to_place_next() -> None:
    class Late(DualPath):
        def decode(self, cluster: Cluster, group: str) -> Iterator[Placement]:
            yield Placement(1, "d0/0")
            raise KeyError(group)

    scheduler = Scheduler(cluster(), Late())
    arrive(scheduler, request(1), request(2))
    with pytest.raises(PolicyFailed, match=r"^the policy failed on request 2 at .*KeyError: 'd0'"):
        fetch(scheduler, "d0")

"""`basic` with parts of `dualpath`: each switch changes its own decisions and no others."""

import pytest
from test_policies import arrive, cluster, fetch, request

from scheduler.errors import SchedulerError
from scheduler.lookup import lookup
from scheduler.scheduler import Scheduler
from scheduler.types import Decision, Side

WITHOUT_SCHEDULING = ["basic+layerwise", "basic+dual-path", "basic+layerwise+dual-path"]


def sides(decisions: list[Decision]) -> list[Side]:
    return [read.side for decision in decisions for read in decision.reads]


@pytest.mark.parametrize("name", WITHOUT_SCHEDULING)
def test_without_scheduling_engines_come_in_turn_at_arrival(name: str) -> None:
    requests = [request(number) for number in range(6)]
    ablated, basic = (
        arrive(Scheduler(cluster(), lookup(policy)), *requests) for policy in (name, "basic")
    )
    assert [(d.pe, d.de) for d in ablated] == [(d.pe, d.de) for d in basic]


def test_both_paths_without_scheduling_are_the_sides_in_turn() -> None:
    scheduler = Scheduler(cluster(), lookup("basic+dual-path"))
    no_hits = request(9, prompt=64, hit=0)
    decided = arrive(scheduler, request(0), no_hits, request(1), request(2))
    assert sides(decided) == [Side.PE, Side.DE, Side.PE]


@pytest.mark.parametrize("name", ["basic", "basic+layerwise", "basic+scheduling"])
def test_without_the_second_path_only_prefill_nodes_read(name: str) -> None:
    scheduler = Scheduler(cluster(), lookup(name))
    decided = arrive(scheduler, *(request(number) for number in range(4)))
    for group in ("pg", "d0", "d1"):
        decided += fetch(scheduler, group)
    assert sides(decided) == [Side.PE] * 4


def test_with_all_three_it_decides_as_dualpath_does() -> None:
    found = []
    for name in ("dualpath", "basic+scheduling+dual-path+layerwise"):
        scheduler = Scheduler(cluster(), lookup(name))
        decided = arrive(scheduler, *(request(n, prompt=640 * (n % 3 + 1)) for n in range(9)))
        for group in ("pg", "d1", "d0"):
            decided += fetch(scheduler, group)
        found.append(decided)
    assert found[0] == found[1] and len(found[0]) == 9


def test_each_switch_asks_of_engines_what_it_is_about() -> None:
    basic, dualpath = lookup("basic").traits, lookup("dualpath").traits
    assert lookup("basic+dual-path").traits == basic
    assert lookup("basic+layerwise+dual-path+scheduling").traits == dualpath
    layerwise, scheduling = (lookup(f"basic+{word}").traits for word in ("layerwise", "scheduling"))
    assert (layerwise.layerwise, layerwise.quota_s) == (True, None)
    assert layerwise.max_tokens == basic.max_tokens and layerwise.read_ahead is None
    assert (scheduling.layerwise, scheduling.quota_s) == (False, dualpath.quota_s)
    assert scheduling.read_ahead == basic.read_ahead


@pytest.mark.parametrize("name", ["basic+layers", "basic+", "basic+layerwise+layerwise"])
def test_a_wrong_switch_is_answered_with_the_right_ones(name: str) -> None:
    with pytest.raises(SchedulerError, match="layerwise, dual-path, scheduling at most once"):
        lookup(name)


@pytest.mark.parametrize("name", ["dualpath+layerwise", "+layerwise"])
def test_only_basic_has_switches(name: str) -> None:
    with pytest.raises(SchedulerError, match="there is no policy"):
        lookup(name)

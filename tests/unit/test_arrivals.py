"""Poisson arrivals, and windows that end before everybody is there."""

from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from testbed.errors import InputError
from testbed.spec_workload import FixedWorkload, ReplayWorkload, WekaWorkload, WorkloadSpec
from testbed.workload import build_workload, offered_turns_per_s

KINDS = [FixedWorkload, WekaWorkload, ReplayWorkload]


def starts(spec: WorkloadSpec, seed: int = 0) -> list[float]:
    return [agent.start_s for agent in build_workload(spec, seed).agents]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_rate_all_start_at_once(kind: type[WorkloadSpec]) -> None:
    workload = build_workload(kind(agents=20), 0)
    assert {agent.start_s for agent in workload.agents} == {0.0}
    assert offered_turns_per_s(workload) == float("inf")
    assert "Poisson" not in workload.rule


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_are_exponential_with_the_rates_mean(kind: type[WorkloadSpec]) -> None:
    at_s = starts(kind(agents=20_000, aps=8.8, turns=2))
    gaps = [later - earlier for earlier, later in pairwise([0.0, *at_s])]
    assert fmean(gaps) == pytest.approx(1 / 8.8, rel=0.03)
    assert pstdev(gaps) == pytest.approx(1 / 8.8, rel=0.03)
    above = sum(gap > 2 / 8.8 for gap in gaps) / len(gaps)
    assert above == pytest.approx(0.1353, rel=0.06)  # exp(-2)


def test_a_start_depends_on_seed_and_number_and_scales_with_the_rate() -> None:
    spec = ReplayWorkload(agents=50, turns=2, aps=0.4)
    assert starts(ReplayWorkload(agents=500, turns=2, aps=0.4))[:50] == starts(spec)
    assert starts(spec, seed=1) != starts(spec)
    twice = starts(ReplayWorkload(agents=50, turns=2, aps=0.8))
    assert [2 * at_s for at_s in twice] == pytest.approx(starts(spec))


def test_what_is_offered_are_all_turns_until_the_last_arrival() -> None:
    workload = build_workload(FixedWorkload(agents=100, turns=3, aps=2.0), 0)
    assert offered_turns_per_s(workload) == 300 / workload.agents[-1].start_s
    assert "Poisson process of 2 agents a second, the last of 100 after" in workload.rule


def test_agents_after_the_windows_end_take_no_part_and_leave_no_opening() -> None:
    spec = ReplayWorkload(agents=200, turns=2, aps=1.0, window_s=60.0)
    workload = build_workload(spec, 0)
    everybody = build_workload(ReplayWorkload(agents=200, turns=2, aps=1.0), 0).agents
    assert workload.agents == tuple(agent for agent in everybody if agent.start_s < 60)
    assert 30 < len(workload.agents) < 100
    assert {o.id for o in workload.openings} <= {agent.opening for agent in workload.agents}
    assert workload.rule.endswith("; no turn begins after 60 s")


def test_a_window_without_an_arrival_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"the first agent arrives at .* after workload\.window_s"):
        build_workload(FixedWorkload(agents=5, aps=0.001, window_s=1.0), 0)

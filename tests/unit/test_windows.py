"""The steady part of an open loop, what was offered in it, and turns that were never due."""

import pytest
from test_metrics import BOUND, run_data

from engines.agents import AgentPlan, AgentsConfig, TurnPlan, TurnRecord
from scheduler.types import Request
from testbed.errors import RunFailed
from testbed.results.metrics import measure
from testbed.results.verdict import PASSED, judge
from testbed.results.windows import (
    FEWEST_ARRIVALS,
    agents_config,
    arrivals_window,
    begun_within,
    offered_turns_per_s,
    turns_not_begun,
)

AGENTS, TURNS, EVERY_S, TURN_S = 40, 3, 1.0, 2.0


def config(
    agents: int = AGENTS, window_s: float | None = None, every_s: float = EVERY_S
) -> AgentsConfig:
    plans = tuple(
        AgentPlan(n, n, 0, (TurnPlan(64, 2),) * TURNS, start_s=(n + 1) * every_s)
        for n in range(agents)
    )
    return AgentsConfig("agents", "sched", (), plans, 64, 100.0, window_s)


def turn(agent: int, number: int, submitted_s: float) -> TurnRecord:
    request = Request(agent * TURNS + number, agent, number, 64, 0, 2)
    record = TurnRecord(request, 1, submitted_s)
    record.decode_start_s, record.done_s = submitted_s + 1, submitted_s + TURN_S
    return record


def served(played: AgentsConfig) -> list[TurnRecord]:
    """Every turn takes two seconds, as long as turns may begin."""
    return [
        turn(plan.agent, number, plan.start_s + number * TURN_S)
        for plan in played.agents
        for number in range(TURNS)
        if played.window_s is None or plan.start_s + number * TURN_S < played.window_s
    ]


def test_steady_from_an_agents_time_after_the_first_arrival_to_the_last() -> None:
    assert arrivals_window(config(), served(config())) == (1.0 + TURNS * TURN_S, 40.0)


def test_agents_that_start_at_once_are_no_open_loop() -> None:
    closed = config(every_s=0.0)
    assert arrivals_window(closed, served(closed)) is None
    assert offered_turns_per_s(closed, served(closed), (3.0, 5.0)) == float("inf")


@pytest.mark.parametrize(("agents", "every_s"), [
    (FEWEST_ARRIVALS, 1.0), (5, 1000.0), (AGENTS, 0.01),
])  # fmt: skip
def test_too_few_or_too_close_arrivals_leave_the_run_as_a_whole(
    agents: int, every_s: float
) -> None:
    played = config(agents, every_s=every_s)
    turns = served(played)
    assert arrivals_window(played, turns) == (0.0, max(turn.done_s for turn in turns))
    assert arrivals_window(played, []) == (0.0, agents * every_s)


def test_an_agent_that_is_cut_short_counts_with_all_of_its_turns() -> None:
    cut = config(window_s=40.5)
    turns = served(cut)
    assert turns_not_begun(cut, turns) == 2 + 2 + 1 + 1
    window = arrivals_window(cut, turns)
    assert window == pytest.approx((1.0 + TURNS * TURN_S, 40.0))


@pytest.mark.parametrize(("window_s", "found", "counted"), [
    (None, (7.0, 44.0), (7.0, 44.0)),
    (30.0, (7.0, 29.0), (7.0, 29.0)),
    (30.0, (7.0, 44.0), (7.0, 30.0)),
    (30.0, (0.0, 44.0), (0.0, 30.0)),
    (30.0, (29.0, 44.0), (0.0, 30.0)),
])  # fmt: skip
def test_nothing_counts_after_the_last_turn_may_begin(
    window_s: float | None, found: tuple[float, float], counted: tuple[float, float]
) -> None:
    assert begun_within(config(window_s=window_s), found) == counted


def test_no_more_turns_enter_than_are_offered() -> None:
    played = config()
    turns = served(played)
    begin_s, end_s = 7.0, 40.0
    entered = sum(begin_s < turn.decode_start_s <= end_s for turn in turns)
    offered = offered_turns_per_s(played, turns, (begin_s, end_s))
    # Those of agents 38 to 40 that are still to come are offered as well: 2 + 2 + 1 + 1 + 0.
    before = sum(turn.decode_start_s <= begin_s for turn in turns)
    assert offered == (AGENTS * TURNS - before) / 33.0
    assert offered >= entered / 33.0
    assert offered_turns_per_s(played, turns, (0.0, 46.0)) == AGENTS * TURNS / 40.0


def test_a_failed_agents_turns_are_failed_and_not_left_by_the_window() -> None:
    cut = config(agents=2, window_s=2.5)
    first, *others = served(cut)
    assert turns_not_begun(cut, [first, *others]) == 4
    first.reason = "damaged"
    assert turns_not_begun(cut, [first, *others]) == 2


def test_without_a_window_what_is_missing_has_failed() -> None:
    played = config()
    assert turns_not_begun(played, served(played)[:-1]) == 0


def test_a_run_without_a_turn_says_so() -> None:
    run = run_data()
    run.turns.clear()
    with pytest.raises(RunFailed, match=r"no agent began a turn in time; .* workload\.window_s"):
        measure(run, lambda *_: BOUND, 1)


def test_completed_failed_and_not_begun_are_all_that_was_planned() -> None:
    run = run_data()
    del run.turns[6:]
    del run.truths[6:]
    role = agents_config(run.plan)
    assert sum(len(agent.turns) for agent in role.agents) == 8
    cut = AgentsConfig(
        role.host, role.scheduler, role.everyone, role.agents, 64, role.deadline_s, 5.0
    )
    hosts = tuple(
        host if host.role is not role else type(host)(cut, host.pools) for host in run.plan.hosts
    )
    run.plan = type(run.plan)(
        run.plan.world, run.plan.wires, hosts, run.plan.sample_period_s, run.plan.start_deadline_s
    )
    result = measure(run, lambda *_: BOUND, 1)
    found = (result.completed_turns, result.failed_turns, result.turns_not_begun)
    assert found == (6, 0, 2)
    run.turns[5].reason = "damaged"
    result = measure(run, lambda *_: BOUND, 1)
    assert result.completed_turns + result.failed_turns + result.turns_not_begun == 8
    assert result.failed_turns > 0 and judge(run, result).functional != PASSED

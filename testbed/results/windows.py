"""Which part of a run counts when agents arrive one by one, and which turns were never due."""

from collections.abc import Sequence
from statistics import fmean

from engines.agents import AgentsConfig, TurnRecord
from testbed.errors import RunFailed
from testbed.worlds.plan import LabPlan

SHORTEST_WINDOW_S = 2.0
FEWEST_ARRIVALS = 20  # a count of so many is off by a fifth
FIRST_TO_LEAVE = 0.02  # of all agents; the load that so few take along is within the noise


def agents_config(plan: LabPlan) -> AgentsConfig:
    """What the agents' host of a run played."""
    for host in plan.hosts:
        if isinstance(host.role, AgentsConfig):
            return host.role
    raise RunFailed("the plan of this run names no host of agents; run it again")


def turns_not_begun(config: AgentsConfig, turns: Sequence[TurnRecord]) -> int:
    """Turns that agents did not come to before the window's end, and no failure is to blame for."""
    if config.window_s is None:
        return 0
    begun = {agent.agent: 0 for agent in config.agents}
    for turn in turns:
        begun[turn.request.agent] += 1
    failed = {turn.request.agent for turn in turns if turn.reason}
    return sum(
        len(agent.turns) - begun[agent.agent]
        for agent in config.agents
        if agent.agent not in failed
    )


def arrivals_window(
    config: AgentsConfig, turns: Sequence[TurnRecord]
) -> tuple[float, float] | None:
    """The steady part of an open loop, in target seconds: None if all agents start at once.

    As many agents leave as arrive from a mean agent's time after the first arrival (Little's law)
    to the last arrival. The time of an agent that the window's end cut short is scaled up to all
    of its turns. A run in which that part is short, or has few arrivals, counts as a whole.
    """
    last_s = max((agent.start_s for agent in config.agents), default=0.0)
    if last_s == 0:
        return None
    planned = {agent.agent: len(agent.turns) for agent in config.agents}
    played: dict[int, list[TurnRecord]] = {}
    for turn in turns:
        if turn.done_s and not turn.reason:
            played.setdefault(turn.request.agent, []).append(turn)
    if not played:
        return 0.0, last_s
    lives_s = [
        (max(t.done_s for t in mine) - min(t.submitted_s for t in mine)) * planned[n] / len(mine)
        for n, mine in played.items()
    ]
    begin_s = min(turn.submitted_s for turn in turns) + fmean(lives_s)
    arrivals = sum(begin_s < agent.start_s for agent in config.agents)
    if last_s - begin_s < SHORTEST_WINDOW_S or arrivals < FEWEST_ARRIVALS:
        return 0.0, max(turn.done_s for turn in turns)
    return begin_s, last_s


def begun_within(config: AgentsConfig, window: tuple[float, float]) -> tuple[float, float]:
    """The same part as far as agents begin turns in it: after that, buffers and queues run empty.

    If too little is left of it, the run counts as a whole, to the same end.
    """
    begin_s, end_s = window
    if config.window_s is None or end_s <= config.window_s:
        return window
    steady = config.window_s - begin_s >= SHORTEST_WINDOW_S
    return begin_s if steady else 0.0, config.window_s


def offered_turns_per_s(
    config: AgentsConfig, turns: Sequence[TurnRecord], window: tuple[float, float]
) -> float:
    """Turns that could enter decode in a window, by what agents brought; inf if all start at once.

    In a steady part: all turns of the agents that arrived before its end, without those that
    entered before its begin. In a run as a whole: all turns, until the last agent arrives.
    """
    begin_s, end_s = window
    planned = [(agent.start_s, len(agent.turns)) for agent in config.agents]
    last_s = max(start_s for start_s, _ in planned)
    if last_s == 0:
        return float("inf")
    if begin_s == 0:
        return sum(count for _, count in planned) / last_s
    brought = sum(count for start_s, count in planned if start_s <= end_s)
    entered = sum(0 < turn.decode_start_s <= begin_s for turn in turns)
    return (brought - entered) / (end_s - begin_s)


def leaving_s(turns: Sequence[TurnRecord]) -> float:
    """When the first agents have played all their turns; until then each keeps the loop closed."""
    over: dict[int, float] = {}
    for turn in turns:
        agent = turn.request.agent
        over[agent] = max(over.get(agent, 0.0), turn.done_s or turn.submitted_s)
    gone = sorted(over.values())
    return gone[int(len(gone) * FIRST_TO_LEAVE)] if gone else 0.0

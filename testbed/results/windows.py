"""Which part of a run counts when agents arrive one by one, and which turns were never due."""

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

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


def steady_window(turns: Sequence[TurnRecord], queue_turns: int) -> tuple[float, float]:
    """From the cluster's fill until its load falls, in target seconds.

    It is full when as many turns have entered decode as the pipeline holds before it, and as many
    again as decode itself holds (Little's law): from then on as many contexts leave as enter, and
    memories hold what they will hold. The load falls when agents begin to leave and the queue is
    dry: no more turns wait for their decode than the pipeline itself holds. A run too short for a
    steady state counts as a whole.
    """
    starts = np.sort([turn.decode_start_s for turn in turns if turn.decode_start_s])
    submits = np.sort([turn.submitted_s for turn in turns])
    if len(starts) == 0:
        return 0.0, 0.0
    last = len(starts) - 1
    filled = min(queue_turns, last)
    waiting = np.searchsorted(submits, starts, side="right") - np.arange(1, len(starts) + 1)
    dry = np.flatnonzero((waiting <= queue_turns) & (starts > starts[filled]))
    staying = np.searchsorted(starts, leaving_s(turns), side="right") - 1
    end = max(int(dry[0]), int(staying)) if len(dry) else last
    between_s = float(starts[end] - starts[filled])
    decodes = [turn.done_s - turn.decode_start_s for turn in turns if turn.done_s]
    mean_decode_s = float(np.mean(decodes or [0.0]))
    decoding = (end - filled) / between_s * mean_decode_s if between_s else 0.0
    begin_s = float(starts[min(filled + math.ceil(decoding), last)])
    end_s = float(starts[end])
    if end_s - begin_s < max(SHORTEST_WINDOW_S, mean_decode_s):
        return 0.0, max(turn.done_s or turn.decode_start_s for turn in turns)
    return begin_s, end_s


def entry_rate(starts: NDArray[np.float64], window: tuple[float, float]) -> float:
    """Turns per second that enter decode, from sorted entries within a window.

    The slope of the line through the entries: they come in clumps, one a forward, and a count
    between two edges is wrong by up to a clump, which is some percent of a short run.
    """
    length_s = window[1] - window[0]
    if window[0] == 0 or len(starts) < 2 or starts[0] == starts[-1]:
        return len(starts) / length_s if length_s > 0 else 0.0
    return float(np.polyfit(starts - starts[0], np.arange(len(starts)), 1)[0])

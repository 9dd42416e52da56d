"""When agents arrive, and which of them arrive before the window ends."""

from random import Random

import msgspec

from testbed.errors import InputError
from testbed.workload.plan import Workload


def arrive(workload: Workload, aps: float | None, window_s: float | None, seed: int) -> Workload:
    """Give every agent its start: gaps between agents are exponential with mean 1 / `aps`.

    An agent's start depends on its number alone, not on how many there are; the gaps of any two
    rates are in proportion. Agents after the window's end take no part. Raises InputError if no
    agent arrives before it.
    """
    agents, rule, openings = workload.agents, workload.rule, workload.openings
    if aps is not None:
        random, at_s, started = Random(f"arrivals-{seed}"), 0.0, []
        for agent in agents:
            at_s += random.expovariate(1.0) / aps
            if window_s is not None and at_s >= window_s:
                break
            started.append(msgspec.structs.replace(agent, start_s=at_s))
        if not started:
            raise InputError(
                f"workload: the first agent arrives at {at_s:.4g} s, after workload.window_s, "
                f"which is {window_s:g}; choose a longer window, or a higher aps"
            )
        rule += (
            f"; they arrive as a Poisson process of {aps:g} agents a second, the last of "
            f"{len(started)} after {started[-1].start_s:,.1f} s"
        )
        if len(started) < len(agents):
            used = {agent.opening for agent in started}
            openings = tuple(opening for opening in openings if opening.id in used)
        agents = tuple(started)
    if window_s is not None:
        rule += f"; no turn begins after {window_s:g} s"
    return Workload(openings, agents, rule)

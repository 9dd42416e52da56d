"""The fixed kind: turns of equal size or around an average, contexts around an average."""

import math
from collections.abc import Iterator
from random import Random
from statistics import fmean

from engines.agents import AgentPlan, TurnPlan
from testbed.errors import InputError
from testbed.spec import BLOCK_TOKENS
from testbed.spec_workload import FixedWorkload
from testbed.workload.plan import Opening, Workload


def build_fixed(spec: FixedWorkload, seed: int) -> Workload:
    """Agents in mid-trajectory whose contexts average `cached_tokens` over all turns."""
    random = Random(f"fixed-{seed}")
    appends = _appends(spec, Random(f"appends-{seed}"))
    plans = [_turns(spec, appends, random) for _ in range(spec.agents)]
    factors = [1 + spec.spread * random.uniform(-1, 1) for _ in range(spec.agents)]
    start = spec.cached_tokens - fmean(_growth(turns) for turns in plans)
    if start * min(factors) < 1:
        raise InputError(
            f"workload: {spec.turns} turns grow a context beyond an average of "
            f"{spec.cached_tokens} cached tokens; choose fewer turns, or more cached_tokens"
        )
    start /= fmean(factors)
    agents = tuple(
        AgentPlan(
            agent=number,
            opening=number % spec.openings,
            opening_tokens=_whole_blocks(start * factor),
            turns=turns,
        )
        for number, (turns, factor) in enumerate(zip(plans, factors, strict=True))
    )
    lengths: dict[int, int] = {}
    for agent in agents:
        lengths[agent.opening] = max(lengths.get(agent.opening, 0), agent.opening_tokens)
    openings = tuple(Opening(opening, tokens) for opening, tokens in lengths.items())
    return Workload(openings, agents, _rule(spec, start))


def _whole_blocks(tokens: float) -> int:
    """An opening comes out of storage, which keeps whole blocks."""
    return max(1, round(tokens / BLOCK_TOKENS)) * BLOCK_TOKENS


def _appends(spec: FixedWorkload, random: Random) -> Iterator[int]:
    """What each turn appends: equal quantiles of the distribution, so that the average is met."""
    count = spec.agents * spec.turns
    if spec.appends == "equal":
        return iter([spec.append_tokens] * count)
    quantiles = [-math.log1p(-(place + 0.5) / count) for place in range(count)]
    random.shuffle(quantiles)
    return (max(1, round(spec.append_tokens * quantile)) for quantile in quantiles)


def _turns(spec: FixedWorkload, appends: Iterator[int], random: Random) -> tuple[TurnPlan, ...]:
    """An agent caught in mid-decode has only a remainder of its first turn left to generate."""
    caught = random.random() < spec.mid_decode
    remainder = random.randint(1, spec.generate_tokens)
    first = remainder if caught else spec.generate_tokens
    generated = [first] + [spec.generate_tokens] * (spec.turns - 1)
    return tuple(TurnPlan(next(appends), tokens) for tokens in generated)


def _growth(turns: tuple[TurnPlan, ...]) -> float:
    """By how much the context of an agent's mean turn exceeds its first turn's."""
    grown, total = 0, 0
    for turn in turns:
        total += grown
        grown += turn.append_tokens + turn.generate_tokens
    return total / len(turns)


def _rule(spec: FixedWorkload, start: float) -> str:
    spread = f" times 1 +- {spec.spread:g}" if spec.spread else ""
    uneven = " (exponentially distributed)" if spec.appends == "exponential" else ""
    return (
        f"{spec.agents} agents in a closed loop, {spec.turns} turns each, each turn appending "
        f"{spec.append_tokens}{uneven} and generating {spec.generate_tokens} tokens; contexts "
        f"start at "
        f"{start:.0f} tokens{spread}, rounded to whole blocks, so that turns "
        f"average {spec.cached_tokens} cached tokens; "
        f"openings shared round robin by {-(-spec.agents // spec.openings)} agents at most; "
        f"{spec.mid_decode:.0%} of the agents start in mid-decode, with a random remainder of "
        "their first turn's generation"
    )

"""Synthetic trajectories whose averages are those of the paper's data sets (Table 2).

The table's averages fit together only if trajectories with short turns have many of them: 157
turns of 429 + 176 tokens would be 95K tokens where 56K is the mean. So each trajectory has a size
of its own, a factor on what all of its rounds append and generate, and it ends at its own number
of rounds or where the next one would exceed the set's longest length. Factor and number are
independent and lognormal; what is cut at the longest length makes them correlate. All lengths are
exponential around the trajectory's mean, that of the first prompt is uniform within a half.

Parameters are fitted so that five averages are those of the table: rounds and total tokens a
trajectory, appended and generated tokens a round (each a mean over trajectories of their means),
and cached tokens a round (a mean over all rounds, of what the context holds before each).
"""

import math
from random import Random
from statistics import NormalDist

import msgspec

from engines.agents import TurnPlan

ROUNDS_SIGMA = 0.6  # of the logarithm of the number of rounds; the other five are fitted to it


class TrajectorySet(msgspec.Struct, frozen=True):
    """A set's longest length and fitted parameters, all in tokens but `rounds` and `sigma`.

    `first` tokens make the first prompt; `append` and `generate` are a round's means, `rounds` the
    median number of rounds before the cut, `sigma` that of the logarithm of the size factor.
    """

    longest: int
    first: float
    append: float
    generate: float
    rounds: float
    sigma: float


SETS = {
    "32k": TrajectorySet(32_768, 6913, 451.2, 148.1, 91.8, 0.847),
    "48k": TrajectorySet(49_152, 8947, 352.2, 172.1, 159.3, 0.860),
    "64k": TrajectorySet(65_536, 11_259, 319.2, 176.2, 230.9, 0.920),
}


def synthesize(chosen: TrajectorySet, count: int, seed: int) -> list[tuple[TurnPlan, ...]]:
    """`count` trajectories from their first round on; factors and numbers are equal quantiles."""
    random = Random(f"synthetic-{seed}")
    normal = NormalDist()
    factors, rounds = (
        [normal.inv_cdf((place + 0.5) / count) for place in range(count)] for _ in range(2)
    )
    random.shuffle(factors)
    random.shuffle(rounds)
    return [
        _trajectory(
            chosen,
            math.exp(chosen.sigma * (factor - chosen.sigma / 2)),
            round(chosen.rounds * math.exp(ROUNDS_SIGMA * number)),
            random,
        )
        for factor, number in zip(factors, rounds, strict=True)
    ]


def _trajectory(
    chosen: TrajectorySet, factor: float, rounds: int, random: Random
) -> tuple[TurnPlan, ...]:
    append = _whole(chosen.first * random.uniform(0.5, 1.5))
    turns: list[TurnPlan] = []
    total = 0
    while True:
        turn = TurnPlan(append, _drawn(chosen.generate * factor, random))
        total += turn.append_tokens + turn.generate_tokens
        if total > chosen.longest and turns:
            break
        turns.append(turn)
        if len(turns) >= rounds:
            break
        append = _drawn(chosen.append * factor, random)
    return tuple(turns)


def _drawn(mean: float, random: Random) -> int:
    return _whole(random.expovariate(1 / mean))


def _whole(tokens: float) -> int:
    return max(1, round(tokens))

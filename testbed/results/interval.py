"""How sure a ratio is: Student's t over the logs of ratios that are paired, by seed for example.

Logs, because a ratio and its inverse must be equally far from 1. Pairs, because what a seed does to
one policy it mostly does to all: the ratio within a pair scatters less than either of its sides.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import msgspec

CONFIDENCE = 0.95
FEWEST_PAIRS = 2
HALVINGS = 200  # of an interval of doubles: more than they have bits


class Interval(msgspec.Struct, frozen=True):
    """A mean ratio, and between what it lies with a confidence of 95 %."""

    ratio: float
    low: float
    high: float

    @property
    def spans_one(self) -> bool:
        """Whether there may be no difference at all."""
        return self.low <= 1.0 <= self.high


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> Interval:
    """The geometric mean of `over` / `under`, pair by pair, all above 0 and at least two pairs.

    Assumes that the logs of the ratios are near normal.
    """
    logs = [math.log(one / other) for one, other in zip(over, under, strict=True)]
    mean = fmean(logs)
    half = t_quantile(CONFIDENCE, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def t_quantile(confidence: float, freedom: int) -> float:
    """What |t| stays below with this probability; found by halving, as `t_within` only rises."""
    low, high = 0.0, 1.0
    while t_within(high, freedom) < confidence:
        high *= 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if t_within(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return high


def t_within(t: float, freedom: int) -> float:
    """The probability that Student's |t| is at most `t`.

    The finite series for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return (angle + sine * total) * 2 / math.pi if odd else sine * total

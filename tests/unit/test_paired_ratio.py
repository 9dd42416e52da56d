"""Intervals: known ones by hand, Student's quantiles of the tables, and how often they cover."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.results.interval import Interval, paired_ratio, t_quantile, t_within

positive = st.floats(1e-6, 1e6)


@pytest.mark.parametrize(("freedom", "tabled"), [
    (1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (10, 2.228),
    (30, 2.042), (60, 2.000), (120, 1.980), (999, 1.962),
])  # fmt: skip
def test_quantiles_are_those_of_the_tables(freedom: int, tabled: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(tabled, abs=5e-4)


def test_one_and_two_degrees_have_closed_forms() -> None:
    assert t_within(1.0, 1) == pytest.approx(0.5)  # Cauchy's quartile
    assert t_within(3.0, 2) == pytest.approx(3 / math.sqrt(2 + 9))
    assert t_quantile(0.99, 1) == pytest.approx(63.657, abs=1e-3)


def test_an_interval_by_hand() -> None:
    # Logs 0.1, 0.2 and 0.3: mean 0.2, deviation 0.1, and 4.3027 of it over the root of 3.
    found = paired_ratio([math.exp(x) for x in (0.1, 0.2, 0.3)], [1.0, 1.0, 1.0])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert math.log(found.ratio) == pytest.approx(0.2)
    assert math.log(found.low) == pytest.approx(0.2 - half, abs=1e-6)
    assert math.log(found.high) == pytest.approx(0.2 + half, abs=1e-6)
    assert found.spans_one


def test_pairs_tell_what_means_do_not() -> None:
    """Seeds differ by a factor of ten; one side is 5 % better on each."""
    first = [10.0, 30.0, 100.0, 55.0]
    better = [value * factor for value, factor in zip(first, (1.05, 1.06, 1.05, 1.04), strict=True)]
    found = paired_ratio(better, first)
    assert 1.03 < found.low < 1.05 < found.high < 1.07 and not found.spans_one


@given(st.lists(positive, min_size=2, max_size=20))
def test_a_side_against_itself_is_exactly_one(values: list[float]) -> None:
    assert paired_ratio(values, values) == Interval(1.0, 1.0, 1.0)


@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=20))
def test_an_inverse_has_the_inverse_interval(pairs: list[tuple[float, float]]) -> None:
    there = paired_ratio([one for one, _ in pairs], [other for _, other in pairs])
    back = paired_ratio([other for _, other in pairs], [one for one, _ in pairs])
    assert back.ratio == pytest.approx(1 / there.ratio)
    if there.high < 1e300:
        assert back.low == pytest.approx(1 / there.high)


@pytest.mark.parametrize("pairs", [2, 3, 5, 12])
def test_95_in_a_hundred_intervals_cover(pairs: int) -> None:
    """Ratios of 1.3 with chance of 4 % on either side; 4,000 draws are within 1 % of the truth."""
    draw = np.random.default_rng(pairs)
    shared = draw.lognormal(2.0, 0.5, (4000, pairs))
    over = (1.3 * shared * draw.lognormal(0, 0.04, shared.shape)).tolist()
    under = (shared * draw.lognormal(0, 0.04, shared.shape)).tolist()
    found = [paired_ratio(one, other) for one, other in zip(over, under, strict=True)]
    covered = sum(interval.low <= 1.3 <= interval.high for interval in found) / len(found)
    assert 0.94 <= covered <= 0.96

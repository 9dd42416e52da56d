"""What was measured, and the table of what is claimed of it."""

from collections.abc import Callable, Sequence
from typing import Any

Case = tuple[str, ...]  # words of the command
Policy = dict[str, Any]
Check = Callable[["Bench"], None]


class Bench:
    """Results by case, and the claims on them."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.rows: list[tuple[str, str, str, bool | None]] = []

    def policy(self, case: str, name: str) -> Policy:
        """One policy's part of a case's result."""
        found: Policy = self.results[case]["policies"][name]
        return found

    def rate(self, case: str, name: str) -> float:
        """Steady turns/s in target units."""
        return float(self.policy(case, name)["throughput_turns_per_s"])

    def claim(self, what: str, value: float, wanted: str, holds: bool | None) -> None:
        """A row of the table."""
        self.rows.append((what, f"{value:.3f}", wanted, holds))

    def missing(self, what: str, wanted: str, why: str) -> None:
        """A row without a number, which is never a silent pass."""
        self.rows.append((what, why, wanted, False))

    def at_least(self, what: str, value: float, least: float) -> None:
        """A ratio that must not be smaller."""
        self.claim(what, value, f">= {least:g}", value >= least)

    def alike(self, what: str, one: float, other: float, tolerance: float) -> None:
        """Two rates that must agree."""
        ratio = one / other
        self.claim(what, ratio, f"1 +- {tolerance:g}", abs(ratio - 1) <= tolerance)

    def check(self, claims: Sequence[tuple[set[str], Check]]) -> None:
        """Every claim whose cases were run."""
        for needed, check in claims:
            if needed <= self.results.keys():
                check(self)

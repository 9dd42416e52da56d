"""How far the two worlds agree: two results of `compare --json`, from the same experiment."""

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

Result = dict[str, Any]
NUMBER = re.compile(r"\d+")
SPEEDUP_TOLERANCE, BYTES_TOLERANCE, TIE = 0.05, 0.03, 0.02
FEWEST_BYTES = 1000  # a turn and port; less is acknowledgements of what flows the other way


class Agreement(NamedTuple):
    """One number of either world, and by how much they may differ."""

    what: str
    emulated: float
    virtual: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """Virtual over emulated."""
        return self.virtual / self.emulated if self.emulated else float("inf")

    @property
    def holds(self) -> bool:
        """Whether they agree."""
        return abs(self.ratio - 1) <= self.tolerance


def rates(emulated: Result, virtual: Result) -> Iterator[Agreement]:
    """Throughput of each policy, and each speed-up over the first."""
    for name, policy in emulated["policies"].items():
        other = virtual["policies"][name]
        yield Agreement(
            f"{name}, turns/s",
            policy["throughput_turns_per_s"],
            other["throughput_turns_per_s"],
            SPEEDUP_TOLERANCE,
        )
    for name, speedup in list(emulated["speedup"].items())[1:]:
        yield Agreement(f"{name}, speed-up", speedup, virtual["speedup"][name], SPEEDUP_TOLERANCE)


def ports(emulated: Result, virtual: Result) -> Iterator[Agreement]:
    """Payload bytes a turn of every data port; of policies that choose a path, over all nodes.

    Which node reads a turn hangs on microseconds where queues are alike, so ports of one kind are
    added up; the bytes of single ports are held against the closed form by each run's own ledger.
    """
    for name, policy in emulated["policies"].items():
        other = virtual["policies"][name]
        ours, theirs = (_by_kind(result) for result in (policy, other))
        for kind, count in ours.items():
            if count >= FEWEST_BYTES:
                yield Agreement(f"{name}, {kind}", count, theirs.get(kind, 0.0), BYTES_TOLERANCE)


def same_order(emulated: Result, virtual: Result) -> bool:
    """Whether both worlds rank the policies alike.

    Two that neither world tells apart (TIE) may stand either way round.
    """
    for one, other in combinations(emulated["policies"], 2):
        ratios = [_rate(result, one) / _rate(result, other) for result in (emulated, virtual)]
        turned = (ratios[0] - 1) * (ratios[1] - 1) < 0
        if turned and any(abs(ratio - 1) > TIE for ratio in ratios):
            return False
    return True


def _rate(result: Result, policy: str) -> float:
    return float(result["policies"][policy]["throughput_turns_per_s"])


def _by_kind(policy: Result) -> dict[str, float]:
    """Bytes a turn by port, without the numbers of nodes and hosts; data networks alone."""
    found: dict[str, float] = {}
    for port, count in policy["bytes"].items():
        if ":mgmt:" not in port:
            kind = NUMBER.sub("", port)
            found[kind] = found.get(kind, 0.0) + count / policy["completed_turns"]
    return found

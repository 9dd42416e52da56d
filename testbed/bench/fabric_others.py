"""Others on the machine: what they take of its CPUs, and what is measured again for it."""

import time
from collections.abc import Callable

import msgspec

from testbed.bench.fabric_jobs import BulkResult, Failed, LatencyResult, Others
from testbed.worlds.samples import core_times_s, own_times_s

TRIES = 4  # of a measurement that others disturb
MOST_REPEATS = 24  # of a lab: on a machine that is never quiet it must end, too

Result = BulkResult | LatencyResult | Failed


class Window:
    """What others take of the machine's CPUs from here on; all of this PID namespace is ours."""

    def __init__(self) -> None:
        self._began = self._look()

    def others(self) -> Others:
        """What they took so far: told by the kernel's accounts, whatever was measured meanwhile."""
        took_s, busy_s, stolen_s, own_s = (
            now - then for then, now in zip(self._began, self._look(), strict=True)
        )
        foreign_s = max(0.0, busy_s - stolen_s - own_s)
        return Others(foreign_s / took_s, stolen_s / took_s)

    def _look(self) -> tuple[float, float, float, float]:
        busy_s, stolen_s = core_times_s()
        own_s, _ = own_times_s(frozenset())
        return time.monotonic(), busy_s, stolen_s, own_s


class Patience:
    """Repeats measurements that others disturb, a bounded number of times."""

    def __init__(self, repeats: int = MOST_REPEATS) -> None:
        self._left = repeats

    def spent_on(self, measure: Callable[[], Result]) -> Result:
        """The first result that others left alone, or else the one that they spared most.

        Whether they did is told by the accounts of the CPUs alone, never by what was measured. A
        failure is not repeated.
        """
        tries: list[BulkResult | LatencyResult] = []
        while True:
            result = measure()
            if isinstance(result, Failed):
                return result
            tries.append(result)
            if not result.others.disturb or len(tries) == TRIES or not self._left:
                break
            self._left -= 1
        spared = min(tries, key=lambda one: one.others.cpus)
        return msgspec.structs.replace(spared, repeats=len(tries) - 1)

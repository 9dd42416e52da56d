"""The watch over a virtual world: it ends one that stands still, and names who waits for what.

Reports, ticks and samples go on for ever, so timers are always left. They are heart-beats, and
say so. A world stands still when for many of its slowest beats
- nobody sleeps but for a beat (an agent that starts later, a layer that is computed, a token that
  is not out yet: all of them sleep),
- no write is under way, none begins, and
- no message is sent but reports and an idle group's lockstep.
What a host does is a function of its state and of what comes in, and in such a world neither
changes: each beat only repeats the last one.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from math import inf

import anyio

from engines.errors import DeadlineExceeded, VirtualDeadlock
from engines.modelled.clock import VirtualClock
from engines.modelled.transport import Wires

LOOK_PERIOD_S = 1.0
UNASKED_S = 10.0  # so long nobody is asked for a deadline, if none of those known passes before
# A decision needs three beats at most: a member's report, its leader's fetch, the other side's.
# The rest is for policies that count fetches. Where links have delays, a lockstep's message of one
# beat may arrive a delay later, and is not counted as under way: a beat is so much longer.
STILL_BEATS = 20
MOST_NAMED = 20

Waits = Callable[[], Iterable[str]]


class Watch:
    """Looks at the world from time to time."""

    def __init__(self, clock: VirtualClock, wires: Wires) -> None:
        self._clock = clock
        self._pending = clock.pending
        self._wires = wires
        self._hosts: dict[str, Waits] = {}

    def meet(self, host: str, waits: Waits) -> None:
        """How to ask a host who waits there for what, besides those that a deadline names."""
        self._hosts[host] = waits

    async def run(self) -> None:
        """Raise VirtualDeadlock in a world that stands still, DeadlineExceeded after a deadline."""
        said, since_s, due_s = -1, 0.0, 0.0
        while True:
            await anyio.sleep(LOOK_PERIOD_S)
            now_s = self._clock.now_s()
            if now_s >= due_s:
                ends_s = (wait.end_s for wait in self._pending.waits.values())
                first_s = min(ends_s, default=inf)
                if first_s < now_s:
                    raise DeadlineExceeded(
                        f"at {now_s:g} s some have waited longer than engine.deadline_s allows: "
                        f"{self.waiting()}"
                    )
                due_s = min(first_s, now_s + UNASKED_S)
            if self._pending.sleepers or self._wires.under_way or self._wires.said != said:
                said, since_s = self._wires.said, now_s
            elif now_s - since_s > STILL_BEATS * (
                self._pending.beat_s + self._wires.longest_delay_s
            ):
                raise VirtualDeadlock(
                    f"nothing has happened since {since_s:g} s, and nothing can: {self.waiting()}",
                    frozenset(host for host, whats in self._by_host().items() if whats),
                )

    def waiting(self) -> str:
        """Who waits for what: first one of every host, then a second one, at most MOST_NAMED."""
        whats = list(_in_turns(self._by_host().values()))
        more = len(whats) - MOST_NAMED
        return "; ".join([*whats[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])

    def _by_host(self) -> dict[str, list[str]]:
        by_host: dict[str, list[str]] = {
            host: [f"{host}: {what}" for what in waits()] for host, waits in self._hosts.items()
        }
        for wait in sorted(self._pending.waits.values(), key=lambda wait: wait.end_s):
            by_host.setdefault(wait.host, []).append(f"{wait.host}: {wait.what}")
        return by_host


def _in_turns(lists: Iterable[list[str]]) -> Iterator[str]:
    for row in zip_longest(*lists):
        yield from (what for what in row if what is not None)

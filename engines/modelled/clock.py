"""The virtual clock: target seconds are the loop's own, and pass only when all tasks wait."""

import asyncio
from functools import cached_property
from types import TracebackType

import anyio
import anyio.lowlevel

from engines.errors import DeadlineExceeded

WATCH_PERIOD_S = 10.0
MOST_NAMED = 20


class VirtualClock:
    """The time of the virtual loop that runs us (engines/modelled/loop.py).

    Deadlines are watched by one task for all hosts, `watch`: on time that costs nothing to pass,
    who waited in vain is known a period after the deadline, and half a million timers are saved.
    """

    def __init__(self) -> None:
        self.waits: dict[_Wait, None] = {}

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """Asked for once: on some systems each question is a system call."""
        return asyncio.get_running_loop()

    def now_s(self) -> float:
        """Target seconds since the run's start; the same on every host."""
        return self._loop.time()

    async def sleep_until_s(self, when_s: float) -> None:
        """Return at `when_s`; at once, after a turn for others, if it passed."""
        if when_s <= self._loop.time():
            return await anyio.lowlevel.checkpoint()
        # A future of the loop's own: a sleep by way of anyio costs twice as much.
        woken = self._loop.create_future()
        timer = self._loop.call_at(when_s, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()

    def deadline(self, seconds: float, what: str) -> "_Wait":
        """Name what the block waits for; `watch` ends the world if it waits too long."""
        return _Wait(self, self._loop.time() + seconds, what)

    async def watch(self) -> None:
        """Raise DeadlineExceeded once a deadline has passed, naming everybody who waits."""
        while True:
            await anyio.sleep(WATCH_PERIOD_S)
            now_s = self._loop.time()
            if any(wait.end_s < now_s for wait in self.waits):
                raise DeadlineExceeded(f"at {now_s:g} s they wait in vain: {self.waiting()}")

    def waiting(self) -> str:
        """Who waits for what, longest first."""
        whats = [wait.what for wait in sorted(self.waits, key=lambda wait: wait.end_s)]
        more = len(whats) - MOST_NAMED
        return "; ".join([*whats[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


class _Wait:
    """A block that has a deadline."""

    __slots__ = ("_clock", "end_s", "what")

    def __init__(self, clock: VirtualClock, end_s: float, what: str) -> None:
        self.end_s = end_s
        self.what = what
        self._clock = clock

    def __enter__(self) -> None:
        self._clock.waits[self] = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._clock.waits[self]

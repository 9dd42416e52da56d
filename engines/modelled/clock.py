"""The virtual clock: target seconds are the loop's own, and pass only when all tasks wait."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from engines.modelled.loop import VirtualLoop


class Wait(msgspec.Struct, frozen=True, gc=False):
    """What somebody on a host waits for, and until when at most."""

    end_s: float
    host: str
    what: str


class _Pending:
    """What waits on all hosts' clocks together.

    `sleepers` sleep for their work's sake, `beat_s` is the longest heart-beat so far.
    """

    def __init__(self) -> None:
        self.waits: dict[object, Wait] = {}
        self.sleepers = 0
        self.beat_s = 0.0


class VirtualClock:
    """A virtual loop's time (engines/modelled/loop.py).

    Deadlines are watched by one task for all hosts (engines/modelled/watch.py): on time that costs
    nothing to pass, who waited in vain is known soon enough, and half a million timers are saved.
    """

    def __init__(self, loop: VirtualLoop, host: str = "", pending: _Pending | None = None) -> None:
        self._loop = loop
        self._host = host
        self.pending = pending or _Pending()

    def on(self, host: str) -> "VirtualClock":
        """The same clock as a host sees it: what waits on it is known to wait there."""
        return VirtualClock(self._loop, host, self.pending)

    def now_s(self) -> float:
        """Target seconds since the run's start; the same on every host."""
        return self._loop.now_s

    async def sleep_until_s(self, when_s: float) -> None:
        """Return at `when_s`; at once, after a turn for others, if it passed."""
        if when_s <= self._loop.now_s:
            return await asyncio.sleep(0)
        self.pending.sleepers += 1
        try:
            await self._sleep(when_s)
        finally:
            self.pending.sleepers -= 1

    async def beat_until_s(self, when_s: float) -> None:
        """As `sleep_until_s`, for a heart-beat: that it beats on is no sign of work left."""
        beat_s = when_s - self._loop.now_s
        if beat_s <= 0:
            return await asyncio.sleep(0)
        if beat_s > self.pending.beat_s:
            self.pending.beat_s = beat_s
        await self._sleep(when_s)

    async def _sleep(self, when_s: float) -> None:
        # A future of the loop's own: a sleep by way of anyio costs twice as much.
        woken: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        timer = self._loop.call_at(when_s, _wake, woken)
        try:
            await woken
        except asyncio.CancelledError:
            timer.cancel()
            raise

    async def wait_for(self, woken: asyncio.Future[None], seconds: float, what: str) -> None:
        """Wait, known by name; the watch ends the world if it takes too long."""
        waits = self.pending.waits
        waits[woken] = Wait(self._loop.now_s + seconds, self._host, what)
        try:
            await woken
        finally:
            del waits[woken]

    @contextmanager
    def deadline(self, seconds: float, what: str) -> Iterator[None]:
        """Name what the block waits for; the watch ends the world if it waits too long."""
        block, waits = object(), self.pending.waits
        waits[block] = Wait(self._loop.now_s + seconds, self._host, what)
        try:
            yield
        finally:
            del waits[block]


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)

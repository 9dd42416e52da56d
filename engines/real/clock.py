"""The real clock: target seconds on the machine's monotonic clock, which all processes share."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel

from engines.errors import DeadlineExceeded
from engines.tasks import Future

# uvloop's timers count whole milliseconds; a shorter sleep would spin the loop instead.
SHORTEST_SLEEP_S = 0.001


class RealClock:
    """Target time since `start_monotonic_s`; `time_scale` real seconds are one target second."""

    def __init__(self, start_monotonic_s: float, time_scale: float) -> None:
        if not time_scale > 0:
            raise ValueError(f"time_scale is {time_scale}; real seconds a target second, over 0")
        self._start_s = start_monotonic_s
        self._scale = time_scale

    def now_s(self) -> float:
        """Target seconds since the run's start; the same on every host."""
        return (time.monotonic() - self._start_s) / self._scale

    def monotonic_s(self, when_s: float) -> float:
        """The machine's monotonic time at a target time."""
        return self._start_s + when_s * self._scale

    async def sleep_until_s(self, when_s: float) -> None:
        """Return at `when_s`, never before it; at once, after a turn for others, if it passed."""
        left_s = (when_s - self.now_s()) * self._scale
        if left_s <= 0:
            await anyio.lowlevel.checkpoint()
        while left_s > 0:
            await anyio.sleep(max(left_s, SHORTEST_SLEEP_S))
            left_s = (when_s - self.now_s()) * self._scale

    async def beat_until_s(self, when_s: float) -> None:
        """As `sleep_until_s`: in real time nobody asks whether the world stands still."""
        await self.sleep_until_s(when_s)

    async def wait_for(self, woken: Future[None], seconds: float, what: str) -> None:
        """Wait for a future; DeadlineExceeded naming `what` if it takes longer than `seconds`."""
        with self.deadline(seconds, what):
            await woken

    @contextmanager
    def deadline(self, seconds: float, what: str) -> Iterator[None]:
        """Raise DeadlineExceeded naming `what` if the block still waits after `seconds`."""
        # Not fail_after: its TimeoutError could not be told from the block's own (ETIMEDOUT).
        with anyio.move_on_after(seconds * self._scale) as scope:
            yield
        if scope.cancelled_caught:
            raise DeadlineExceeded(
                f"{what} took longer than {seconds:g} s of target time; "
                "look for a lost peer or a stalled link, or raise the deadline"
            )

"""Delay without the kernel's help: what has arrived waits here until its due time.

Bytes of writes go into place as they come, so nothing behind them is slowed down. What is held is
what a host sees of them: doorbells, messages, acknowledgements, and the end of a connection.
"""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol

from engines.errors import TransferError
from engines.real.clock import RealClock

CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, TFD_NONBLOCK = 1, 1, os.O_NONBLOCK
EXPIRATIONS_BYTES = 8
NANOSECONDS = 1_000_000_000

Release = Callable[[float], None]  # with the due time, in target seconds


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm(Protocol):
    """Calls back at a moment of the machine's monotonic clock."""

    def set(self, monotonic_s: float) -> None:
        """Ring then, and at no other time that was set before."""
        ...

    def close(self) -> None:
        """Ring no more."""
        ...


class KernelAlarm:
    """A timer of the kernel (timerfd_create(2)): loops count whole milliseconds, it does not."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            problem = os.strerror(ctypes.get_errno())
            raise TransferError(
                f"this process got no timer for held frames ({problem}); raise `ulimit -n`"
            )
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._rung)

    def set(self, monotonic_s: float) -> None:
        """Ring then; a moment that has passed means now."""
        # A value of zero would disarm it.
        seconds, nanoseconds = divmod(max(1, int(monotonic_s * NANOSECONDS)), NANOSECONDS)
        spec = _TimerSpec(_Timespec(0, 0), _Timespec(seconds, nanoseconds))
        if self._libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(spec), None):
            raise TransferError(f"a timer was refused: {os.strerror(ctypes.get_errno())}")

    def close(self) -> None:
        """Give the timer back."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _rung(self) -> None:
        try:
            os.read(self._fd, EXPIRATIONS_BYTES)
        except BlockingIOError:
            return  # it was set anew after it had rung
        self._ring()


class LoopAlarm:
    """The loop's own timer, where the kernel has no timerfd."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def set(self, monotonic_s: float) -> None:
        """Ring then, or up to a millisecond later."""
        self.close()
        self._timer = self._loop.call_at(monotonic_s, self._ring)

    def close(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()


class Held:
    """All that one host must not see yet, in order of due times; nothing is seen before its own.

    `count` things were held, together `late_s` target seconds longer than asked for.
    """

    def __init__(
        self,
        clock: RealClock,
        alarm: Callable[[Callable[[], None]], Alarm] = (
            KernelAlarm if sys.platform == "linux" else LoopAlarm
        ),
    ) -> None:
        self._clock = clock
        self._make_alarm = alarm
        self._alarm: Alarm | None = None
        self._heap: list[tuple[float, int, Release]] = []
        self._open = True
        self.count = 0
        self.late_s = 0.0

    def hold(self, delay_s: float, release: Release) -> None:
        """Call `release` in so many target seconds; equal due times keep their order."""
        due_s = self._clock.now_s() + delay_s
        if not self._open:
            return release(due_s)
        self.count += 1
        heappush(self._heap, (due_s, self.count, release))
        if self._heap[0][1] == self.count:
            self._set()

    def close(self) -> None:
        """The host leaves: let everything go at once, so that nobody waits for ever."""
        self._open = False
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None
        while self._heap:
            due_s, _, release = heappop(self._heap)
            release(due_s)

    def _set(self) -> None:
        if self._alarm is None:
            self._alarm = self._make_alarm(self._ring)
        self._alarm.set(self._clock.monotonic_s(self._heap[0][0]))

    def _ring(self) -> None:
        while self._heap and (late_s := self._clock.now_s() - self._heap[0][0]) >= 0:
            due_s, _, release = heappop(self._heap)
            self.late_s += late_s
            release(due_s)
        if self._heap:  # a release may have closed it, and then there is nothing left
            self._set()


class Line:
    """What comes over one connection, each thing `delay_s` target seconds after its arrival."""

    def __init__(self, held: Held, delay_s: float) -> None:
        self._held = held
        self._delay_s = delay_s

    def hold(self, release: Release) -> None:
        """Call `release` when it is due; one line's things stay in order."""
        self._held.hold(self._delay_s, release)

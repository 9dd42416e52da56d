"""A guard against a policy that never answers: an endless loop, or a wait for something.

The scheduler has no clock, so the world looks at it: where the process is on a timer's tick, and
whether it was in the same decision a tick ago. A decision takes microseconds; who works through
one in a debugger is left alone.
"""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from scheduler.scheduler import Scheduler

LOOK_PERIOD_S = 10.0  # of wall time; the limit is one to two of them


class NoAnswer(SystemExit):
    """A decision took too long; no Exception, which a loop of the policy may well swallow."""


@contextmanager
def no_endless_decision() -> Iterator[None]:
    """Raise NoAnswer inside a decision that takes longer than the period, at the line where it is.

    Only in a process's main thread, and where the system has interval timers; it borrows the
    alarm from whoever has set it.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or not hasattr(signal, "setitimer"):
        yield
        return
    handler = signal.signal(signal.SIGALRM, _Look())
    began_s = time.monotonic()
    left_s, repeat_s = signal.setitimer(signal.ITIMER_REAL, LOOK_PERIOD_S, LOOK_PERIOD_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left_s:
            left_s = max(0.001, left_s - (time.monotonic() - began_s))
            signal.setitimer(signal.ITIMER_REAL, left_s, repeat_s)


class _Look:
    """What happens on a tick."""

    def __init__(self) -> None:
        self._seen: FrameType | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code is not Scheduler.handle.__code__:
            frame = frame.f_back
        if frame is not None and frame is self._seen and sys.gettrace() is None:
            raise NoAnswer(f"no answer in {LOOK_PERIOD_S:g} s; look for a loop without an end")
        self._seen = frame

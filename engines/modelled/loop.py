"""An event loop on virtual time: when nothing is ready, the clock jumps to the next timer.

A hang cannot last: with nothing ready and no timer left, the loop ends with VirtualDeadlock at
once. The same events always run in the same order, whatever the machine does meanwhile.
"""

import asyncio
import selectors
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from math import ulp
from typing import Any, TypeVar

from engines.errors import VirtualDeadlock

T = TypeVar("T")
RESOLUTION_S = 1e-12


def resolution_s(now_s: float) -> float:
    """Timers this close to each other fire together: what a float can tell apart, late in a run."""
    return max(RESOLUTION_S, 2 * ulp(now_s))


class _Jump(selectors.SelectSelector):
    """Never looks at what is registered, the loop's own pipe: where it would wait, it jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.interrupted = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Jump by `timeout`; with none, no timer is left and nothing can ever happen."""
        if self.interrupted:
            raise KeyboardInterrupt
        if timeout is None:
            raise VirtualDeadlock("every task waits and no timer is left")
        if timeout > 0:
            self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, but `time` is virtual and starts at 0."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    @property
    def _clock_resolution(self) -> float:
        """What asyncio adds to the time when it looks for timers that are due."""
        return resolution_s(self._jump.now_s)

    @_clock_resolution.setter
    def _clock_resolution(self, seconds: float) -> None:
        """asyncio would set that of the machine's clock."""

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jump.now_s

    def interrupt(self) -> None:
        """End the run before its next step, with KeyboardInterrupt."""
        self._jump.interrupted = True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback's error ends the world; asyncio would log it, and all would wait in vain."""
        error = context.get("exception")
        if error is not None:
            raise error
        super().call_exception_handler(context)


def run_virtual(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function to its end in virtual time; VirtualDeadlock if it cannot end.

    An interrupt ends it between two steps. Nothing is waited for then: in a world that stands
    still, tasks that are cancelled may wait for others that are gone.
    """
    loop = VirtualLoop()
    with _interrupts(loop):
        main = loop.create_task(function())
        try:
            return loop.run_until_complete(main)
        finally:
            _abandon(asyncio.all_tasks(loop))
            loop.close()


@contextmanager
def _interrupts(loop: VirtualLoop) -> Iterator[None]:
    """Signals that would end the process end the loop instead, where Python lets us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: loop.interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _abandon(tasks: set[asyncio.Task[Any]]) -> None:
    """Close what is left without running it, and without a word about it."""
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coroutine = task.get_coro()
        if coroutine is not None:
            with suppress(BaseException):  # whatever a task's clean-up says, nobody is there
                coroutine.close()

"""An event loop on virtual time: when nothing is ready, the clock jumps to the next timer.

A hang cannot last: with nothing ready and no timer left, the loop ends with VirtualDeadlock at
once. The same events always run in the same order, whatever the machine does meanwhile.
"""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from math import ulp
from typing import Any, TypeVar

import anyio

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

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Jump by `timeout`; with none, no timer is left and nothing can ever happen."""
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

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback's error ends the world; asyncio would log it, and all would wait in vain."""
        error = context.get("exception")
        if error is not None:
            raise error
        super().call_exception_handler(context)


def run_virtual(function: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function to its end in virtual time; VirtualDeadlock if it cannot end."""
    return anyio.run(function, backend_options={"loop_factory": VirtualLoop})

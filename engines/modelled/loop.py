"""An event loop on virtual time: when nothing is ready, the clock jumps to the next timer.

A hang cannot last: with nothing ready and no timer left, the loop ends with VirtualDeadlock at
once. The same events always run in the same order, whatever the machine does meanwhile.

It is a loop of its own, and not one of asyncio's with another clock: there is nothing to poll and
no context to switch, and a step costs half as much.
"""

import asyncio
import signal
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from heapq import heappop, heappush
from math import ulp
from typing import Any, NoReturn, TypeVar, TypeVarTuple

import msgspec

from engines.errors import VirtualDeadlock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
RESOLUTION_S = 1e-12
CLOSE_S = 1e-6  # timers further apart than this are told apart in any run


def resolution_s(now_s: float) -> float:
    """Timers this close to each other fire together: what a float can tell apart, late in a run."""
    return max(RESOLUTION_S, 2 * ulp(now_s))


class _Step(msgspec.Struct):
    """What to call, with what, unless it is cancelled before; `when_s` of a timer is its time."""

    callback: Callable[..., object] | None
    args: tuple[Any, ...]
    when_s: float = 0.0

    def cancel(self) -> None:
        """Do not call it."""
        self.callback = None

    def cancelled(self) -> bool:
        """Whether it will not be called."""
        return self.callback is None

    def when(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.when_s


class VirtualLoop(asyncio.AbstractEventLoop):
    """What tasks, futures, events and timeouts need of a loop; `now_s` is virtual, from 0 on.

    Context variables are those of the caller for everybody.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._ready: deque[_Step] = deque()
        self._timers: dict[float, list[_Step]] = {}  # of each time, in the order of their setting
        self._times: list[float] = []  # as a heap
        self._closed = False
        self._unseen: list[BaseException] = []

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.now_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call when it is its turn, in this instant."""
        step: Any = _Step(callback, args)
        self._ready.append(step)
        return step  # type: ignore[no-any-return]  # a cast would be a call

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call at a virtual time."""
        timer: Any = _Step(callback, args, when)
        at_once = self._timers.get(when)
        if at_once is None:
            self._timers[when] = [timer]
            heappush(self._times, when)
        else:
            at_once.append(timer)
        return timer  # type: ignore[no-any-return]  # a cast would be a call

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call so many virtual seconds from now."""
        return self.call_at(self.now_s + delay, callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        """A task of this loop; its first step comes when it is its turn."""
        return asyncio.Task(coro, loop=self, name=name or coro.__name__)

    def get_task_factory(self) -> None:
        """There is none."""

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Whether this loop is the one that runs."""
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Forget what has not happened."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        self._times.clear()

    def interrupt(self) -> None:
        """End the run before its next step, with KeyboardInterrupt."""
        self._ready.appendleft(_Step(_break_off, ()))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An error that nobody looked at; asyncio would log it, here it ends the run."""
        self._unseen.append(context.get("exception") or RuntimeError(context["message"]))

    def run_until_complete(self, future: Any) -> Any:
        """Run until a task or future is done; VirtualDeadlock if it never can be.

        An error that a callback raises, or that nobody looked at, ends the world.
        """
        asyncio._set_running_loop(self)
        try:
            while not future.done():
                if not self._ready:
                    self._jump()
                self._instant()
            if self._unseen:
                raise self._unseen[0]
            return future.result()
        finally:
            asyncio._set_running_loop(None)

    def _instant(self) -> None:
        """Every step of this instant. (A function that is called often: Python tunes those.)"""
        ready = self._ready
        while ready:
            step = ready.popleft()
            if step.callback is not None:
                step.callback(*step.args)

    def _jump(self) -> None:
        """To the next timer; all that can hardly be told apart from it fire together."""
        times, timers, ready = self._times, self._timers, self._ready
        when_s = self.now_s  # an interrupt may be the next step already
        while not ready:
            if not times:
                raise VirtualDeadlock("every task waits and no timer is left")
            when_s = heappop(times)
            ready.extend(timers.pop(when_s))
            while ready and ready[0].callback is None:  # nobody waits for that time any more
                ready.popleft()
        if when_s > self.now_s:
            self.now_s = when_s
        if times and times[0] - when_s < CLOSE_S:
            until_s = self.now_s + resolution_s(self.now_s)
            while times and times[0] <= until_s:
                ready.extend(timers.pop(heappop(times)))


def _break_off() -> NoReturn:
    raise KeyboardInterrupt


def virtual_loop() -> VirtualLoop:
    """A loop at time 0."""
    return VirtualLoop()  # type: ignore[abstract]  # it has nothing to poll


def run_virtual(
    function: Callable[[], Coroutine[Any, Any, T]], loop: VirtualLoop | None = None
) -> T:
    """Run a coroutine function to its end in virtual time; VirtualDeadlock if it cannot end.

    It runs on `loop`, where clocks and links were made for one, or on one of its own.

    An interrupt ends it between two steps. Nothing is waited for then: in a world that stands
    still, tasks that are cancelled may wait for others that are gone.
    """
    loop = loop or virtual_loop()
    with _interrupts(loop):
        main: asyncio.Task[T] = loop.create_task(function())
        try:
            loop.run_until_complete(main)
            return main.result()
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

"""A host's tasks and what they wait for: all that engines take of the event loop.

Every turn starts half a dozen tasks and waits two dozen times. In an anyio task group, whose tasks
get a cancel scope of their own, each would cost six times as much.
"""

import asyncio
from asyncio import Future
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

__all__ = ["Crew", "Event", "Future", "Life", "future"]


class Crew:
    """Tasks that end together: by themselves, by `dismiss`, or with the first error among them.

    Errors leave the block as an exception group, as those of asyncio's task groups do. Those call
    back at the end of each task; a crew looks at its members when it ends, which is cheaper.
    """

    def __init__(self) -> None:
        self._members: list[tuple[asyncio.Task[None], Coroutine[Any, Any, None]]] = []
        self._tidy_at = 64
        self._errors: list[BaseException] = []
        self._leaving = self._broke_off = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._leader = asyncio.current_task()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving = True
        cancelled = error if isinstance(error, asyncio.CancelledError) else None
        if error is not None:
            self.dismiss()
            if cancelled is None:
                self._errors.append(error)
        while at_work := [task for task, _ in self._members if not task.done()]:
            try:
                await asyncio.wait(at_work)
            except asyncio.CancelledError as outer:
                cancelled = outer
                self.dismiss()
        for _, work in self._members:
            work.close()  # of who was dismissed before it began
        if self._errors:
            if self._broke_off and self._leader is not None:
                self._leader.uncancel()
            raise BaseExceptionGroup("errors in a crew", self._errors) from None
        if cancelled is not None and cancelled is not error:
            raise cancelled

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the others; it begins when the loop next comes round."""
        self._members.append((self._loop.create_task(self._do(work)), work))
        if len(self._members) > self._tidy_at:
            self._members = [member for member in self._members if not member[0].done()]
            self._tidy_at = 64 + 2 * len(self._members)

    def dismiss(self) -> None:
        """Cancel whoever is still at work."""
        for task, _ in self._members:
            task.cancel()

    async def _do(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._errors.append(error)
            self.dismiss()
            if not self._leaving and self._leader is not None:
                self._broke_off = True
                self._leader.cancel()


def future() -> Future[None]:
    """What one task may wait for, and whoever knows when it is over sets."""
    return Future()


class Event:
    """Something that happens, and who waits for it; as asyncio's, at half its cost."""

    __slots__ = ("_happened", "_waiting")

    def __init__(self) -> None:
        self._happened = False
        self._waiting: list[asyncio.Future[None]] = []

    def set(self) -> None:
        """It happened: wake everybody, and let nobody wait until it is cleared."""
        self._happened = True
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)
        self._waiting.clear()

    def clear(self) -> None:
        """Wait for the next time."""
        self._happened = False

    async def wait(self) -> None:
        """Return at once if it happened, else when it does."""
        if not self._happened:
            woken = future()
            self._waiting.append(woken)
            await woken


class _Over(Exception):
    """A life ended while it saw something through."""


class Life:
    """A part of a task that can be ended early, though not while it sees something through."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._ended = self._busy = False

    def end(self) -> None:
        """Cut it short: at once, when what it sees through is over, or before it began."""
        self._ended = True
        if self._task is not None and not self._busy:
            self._task.cancel()

    async def play(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the work in this task until it is through or ended."""
        if self._ended:
            return work.close()
        self._task = asyncio.current_task()
        try:
            await work
        except _Over:
            pass
        except asyncio.CancelledError:
            if not self._ended or self._task is None:
                raise
            self._task.uncancel()
        finally:
            self._task = None

    async def see_through(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something whole, even if it is ended meanwhile; part of what is played."""
        self._busy = True
        try:
            await work
        finally:
            self._busy = False
        if self._ended:
            raise _Over

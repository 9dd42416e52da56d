"""The clock's seam: all times that engines see are target seconds since the run's start."""

from contextlib import AbstractContextManager
from typing import Protocol

from engines.tasks import Future


class Clock(Protocol):
    """Monotonic target time; one real second is 1/time_scale of a target second."""

    def now_s(self) -> float:
        """Target seconds since the run's start; the same on every host."""
        ...

    async def sleep_until_s(self, when_s: float) -> None:
        """Return at `when_s`, or at once if it has passed (other tasks still get a turn)."""
        ...

    async def beat_until_s(self, when_s: float) -> None:
        """As `sleep_until_s`, for a heart-beat: that it beats on is no sign of work left."""
        ...

    async def wait_for(self, woken: Future[None], seconds: float, what: str) -> None:
        """Wait for a future; DeadlineExceeded naming `what` if it takes longer than `seconds`."""
        ...

    def deadline(self, seconds: float, what: str) -> AbstractContextManager[None]:
        """Raise DeadlineExceeded naming `what` if the block lasts longer than `seconds`."""
        ...

"""Progress on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

WAITING, DONE = "waiting", "done"


class _Turns(ProgressColumn):
    """Turns ended of those planned, as soon as these are known."""

    def render(self, task: Task) -> Text:
        """Nothing before the first word of the run."""
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f} turns")


@contextmanager
def counting(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """One bar, which is told how many of how many are done; nothing unless on a terminal."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, planned: bars.update(task, completed=done, total=planned)


class Bars:
    """A bar a policy, each from its own start; nothing unless the console is a terminal."""

    def __init__(self, policies: list[str], console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), _Turns(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tasks = {
            policy: self._progress.add_task(f"{policy}: {WAITING}", start=False, total=None)
            for policy in policies
        }
        self._now = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._end()
        self._progress.stop()

    def tell(self, policy: str, phase: str, ended: int, planned: int) -> None:
        """A policy is in this phase, with so many turns ended if any are planned."""
        if self._progress.disable:
            return
        task = self._tasks[policy]
        if policy != self._now:
            self._end()
            self._now = policy
            self._progress.start_task(task)
        if not planned:
            return self._progress.update(task, description=f"{policy}: {phase}")
        self._progress.update(
            task, description=f"{policy}: {phase}", completed=ended, total=planned
        )

    def _end(self) -> None:
        if self._now:
            task = self._tasks[self._now]
            self._progress.update(task, description=f"{self._now}: {DONE}")
            self._progress.stop_task(task)

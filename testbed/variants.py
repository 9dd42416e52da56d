"""Variants: many experiments, each under one policy, played on this machine's processes.

Every variant is one call in a worker process: what kills one worker fails that variant alone, and
whoever stops waiting ends the workers at once. Workers end themselves when nobody waits any more.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio
import anyio.to_process
import msgspec

from testbed.errors import RunFailed
from testbed.results.schema import PolicyResult, Verdict
from testbed.session import EMULATED, VIRTUAL, play
from testbed.spec import Experiment
from testbed.workload import build_workload

WATCH_PERIOD_S = 0.5

Key = TypeVar("Key")


class Variant(msgspec.Struct, frozen=True):
    """One experiment under one policy, in one of the worlds."""

    experiment: Experiment
    name: str
    policy: str
    world: str = VIRTUAL


class Played(NamedTuple):
    """What a variant gave, and how many real seconds it took."""

    result: PolicyResult
    verdict: Verdict
    wall_s: float


Ended = Callable[[Key, Played | Exception], None]


def play_variants(
    variants: Mapping[Key, Variant], processes: int, scratch: Path, ended: Ended[Key]
) -> None:
    """Play all, so many at a time; `ended` hears of each, in this process, as soon as it is known.

    Runs write below `scratch`, and leave nothing there. What a variant raises is told, not raised;
    what `ended` raises stops everything. The emulated world owns the machine: one at a time.
    """
    here = {key: variant for key, variant in variants.items() if variant.world == EMULATED}
    for key, variant in here.items():
        ended(key, _attempt(variant, scratch))
    there = {key: variant for key, variant in variants.items() if key not in here}
    if there:
        stopped = anyio.run(_play_beside, there, processes, scratch, ended)
        if stopped is not None:
            raise stopped


def play_variant(variant: Variant, scratch: Path) -> Played:
    """Play one variant in this process; raises what the run raises."""
    began_s = time.perf_counter()
    workload = build_workload(variant.experiment.workload, variant.experiment.seed)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        comparison = play(
            variant.experiment, variant.name, workload, [variant.policy], Path(folder),
            lambda *_: None, variant.world,
        )  # fmt: skip
    wall_s = time.perf_counter() - began_s
    return Played(comparison.policies[variant.policy], comparison.verdict, wall_s)


def _attempt(variant: Variant, scratch: Path) -> Played | Exception:
    try:
        return play_variant(variant, scratch)
    except Exception as error:
        return _first(error)


def _first(error: Exception) -> Exception:
    """What is at the bottom of a group of errors."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _play_beside(
    variants: Mapping[Key, Variant], processes: int, scratch: Path, ended: Ended[Key]
) -> Exception | None:
    """Play in workers; the error with which `ended` stopped it, if it did."""
    limiter = anyio.CapacityLimiter(processes)
    stopped: list[Exception] = []

    async def one(key: Key, variant: Variant) -> None:
        found: Played | Exception
        try:
            found = await anyio.to_process.run_sync(
                _in_worker, variant, scratch, os.getpid(), cancellable=True, limiter=limiter
            )
        except anyio.BrokenWorkerProcess:
            found = RunFailed("its process was killed; was there enough memory?")
        except Exception as error:
            found = _first(error)
        try:
            ended(key, found)
        except Exception as error:
            stopped.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for key, variant in variants.items():
            group.start_soon(one, key, variant)
    return stopped[0] if stopped else None


def _in_worker(variant: Variant, scratch: Path, parent: int) -> Played:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: the parent ends us
    watched = threading.Event()
    watcher = threading.Thread(target=_leave_with, args=(parent, scratch, watched), daemon=True)
    watcher.start()
    try:
        return play_variant(variant, scratch)
    finally:
        watched.set()


def _leave_with(parent: int, scratch: Path, watched: threading.Event) -> None:
    """End this process, and what it wrote, soon after its parent was killed.

    Where a process keeps the number of a dead parent (Windows), it plays its variant to the end.
    """
    while not watched.wait(WATCH_PERIOD_S):
        if os.getppid() != parent:
            shutil.rmtree(scratch, ignore_errors=True)
            os._exit(1)

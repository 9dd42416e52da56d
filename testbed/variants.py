"""Variants: many experiments, each under one policy, played on this machine's processes.

A pool of our own, because the library's breaks as a whole when one worker is killed (for want of
memory, say), and ends only when all runs under way do. Here that variant alone fails, whoever stops
waiting ends the workers at once, and workers end themselves when nobody waits any more.
"""

import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from testbed.errors import RunFailed
from testbed.policies import Chosen
from testbed.results.schema import PolicyResult, Verdict
from testbed.session import EMULATED, VIRTUAL, play
from testbed.spec import Experiment
from testbed.workload import build_workload

# New interpreters: a fork would copy the locks that threads of a progress bar may hold.
SPAWN = multiprocessing.get_context("spawn")
REMOVALS = 100

Key = TypeVar("Key")


class Variant(msgspec.Struct, frozen=True):
    """One experiment under one policy, in one of the worlds."""

    experiment: Experiment
    name: str
    policy: Chosen
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
    waiting: deque[tuple[Key, Variant]] = deque()
    for key, variant in variants.items():
        if variant.world == EMULATED:
            ended(key, _attempt(variant, scratch))
        else:
            waiting.append((key, variant))
    busy: dict[Connection, tuple[_Worker, Key]] = {}
    idle: list[_Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < processes:
                key, variant = waiting.popleft()
                worker = idle.pop() if idle else _Worker(scratch)
                busy[worker.pipe] = worker, key
                with suppress(OSError):  # it died since; its answer will say so
                    worker.pipe.send(variant)
            ready = wait(list(busy))
            for pipe in [pipe for pipe in busy if pipe in ready]:
                worker, key = busy.pop(pipe)
                found = worker.answer()
                if worker.process.is_alive():
                    idle.append(worker)
                ended(key, found)
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.end()


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
    return Played(comparison.policies[variant.policy.name], comparison.verdict, wall_s)


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


class _Worker:
    """A process that plays one variant after another."""

    def __init__(self, scratch: Path) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(theirs, scratch), daemon=True)
        # What is ignored here is ignored there too: a terminal's Ctrl-C is for this process.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        theirs.close()

    def answer(self) -> Played | Exception:
        """What came of the variant; RunFailed if the process is no more."""
        try:
            found: Played | Exception = self.pipe.recv()
        except (EOFError, OSError):
            self.end()
            return RunFailed("its process was killed; is there enough memory?")
        return found

    def end(self) -> None:
        """At once, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, scratch: Path) -> None:
    threading.Thread(target=_leave_with_parent, args=(scratch,), daemon=True).start()
    while True:
        try:
            variant = pipe.recv()
        except EOFError:
            return
        pipe.send(_sendable(_attempt(variant, scratch)))


def _leave_with_parent(scratch: Path) -> None:
    """Nobody waits for this process, or removes what it wrote, when its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    for _ in range(REMOVALS):  # the run, or another worker's, may write while this removes
        shutil.rmtree(scratch, ignore_errors=True)
        if not scratch.exists():
            break
    os._exit(1)


def _sendable(found: Played | Exception) -> Played | Exception:
    """Itself, or an error in words if it cannot be made again from its pickle."""
    try:
        pickle.loads(pickle.dumps(found))
    except Exception:
        return RuntimeError(f"{type(found).__name__}: {found}")
    return found

"""Plays a lab's runs in processes of their own: a student's code may loop, print, or end them."""

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO

import msgspec

from testbed.labs import player
from testbed.labs.player import Broken, Job, Jobs, Outcome
from testbed.processes import end_group

KEPT_CHARACTERS = 2000  # of what the code printed
GRACE_S = 20.0  # to start, and to write the stack down


class Plays(msgspec.Struct, frozen=True):
    """Outcomes in the order of the jobs, and the beginning of what the code printed."""

    outcomes: tuple[Outcome, ...]
    printed: str


class Player:
    """A process that plays jobs; `source` is the student's code, if it is about theirs."""

    def __init__(self, experiment: str, jobs: Sequence[Job], source: bytes, limit_s: float) -> None:
        self._jobs = jobs
        self._limit_s = limit_s
        self._scratch = tempfile.TemporaryDirectory(prefix="testbed-lab-")
        self._folder = Path(self._scratch.name)
        (self._folder / player.EXPERIMENT).write_text(experiment, "utf-8")
        (self._folder / player.STARTER).write_bytes(source)
        words = msgspec.json.encode(Jobs(tuple(jobs), limit_s))
        (self._folder / player.JOBS).write_bytes(words)
        self._process = subprocess.Popen(
            # -P: a file in the folder never takes the place of a module.
            [sys.executable, "-P", "-X", "utf8", "-m", player.__name__],
            cwd=self._folder, env=_environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,  # whatever it starts ends with it
        )  # fmt: skip
        assert self._process.stdout is not None
        self._printed = _Beginning(self._process.stdout)

    def end(self) -> Plays:
        """Wait for it, and say what came of each job; what was not played failed as the last."""
        late = False
        try:
            self._process.wait(len(self._jobs) * self._limit_s + GRACE_S)
        except subprocess.TimeoutExpired:
            late = True
        end_group(self._process)  # what it left behind may still hold the pipe
        printed = self._printed.text()
        outcomes: list[Outcome] = []
        for number in range(len(self._jobs)):
            file = self._folder / player.outcome_file(number)
            if not file.exists():
                break
            try:
                outcomes.append(msgspec.json.decode(file.read_bytes(), type=Outcome))
            except msgspec.DecodeError:  # ended while it was being written
                break
        rest = len(self._jobs) - len(outcomes)
        return Plays((*outcomes, *[self._cut_short(printed, late)] * rest), printed)

    def close(self) -> None:
        """Let nothing of it live on."""
        end_group(self._process)
        self._scratch.cleanup()

    def _cut_short(self, printed: str, late: bool) -> Broken:
        file = self._folder / player.DUMP
        stack = file.read_text() if file.exists() else ""
        if stack or late:
            mine = re.findall(rf'File "{player.STARTER}", line \d+ in (\w+)', stack)
            where = f" in `{mine[0]}`" if mine else ""
            return Broken("loop", f"after {self._limit_s:g} s it was still at work{where}")
        last = printed.strip().splitlines()[-1:] or [f"exit code {self._process.returncode}"]
        return Broken("ended", f"the process ended too early: {last[0]}")


class _Beginning:
    """Reads all that a process prints, and keeps the beginning: a full pipe would stop it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """What is kept, once the process is over."""
        self._thread.join(GRACE_S)
        return self._kept.decode("utf-8", "replace")[:KEPT_CHARACTERS]

    def _read(self) -> None:
        with self._stream:
            while piece := self._stream.read(65536):
                self._kept += piece[: 4 * KEPT_CHARACTERS - len(self._kept)]


def _environment() -> dict[str, str]:
    """This process's, with its modules, and with the same order of sets each time."""
    paths = [str(Path(path).resolve()) for path in ("" if p is None else p for p in sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"}


def play_all(
    experiment: str, mine: Sequence[Job], others: Sequence[Job], source: bytes, limit_s: float
) -> tuple[Plays, Plays]:
    """A student's runs and those to compare with, side by side; neither can touch the other."""
    with ExitStack() as stack:
        players = [
            stack.enter_context(closing(Player(experiment, jobs, code, limit_s)))
            for jobs, code in ((mine, source), (others, b""))
        ]
        own, theirs = [each.end() for each in players]
    return own, theirs

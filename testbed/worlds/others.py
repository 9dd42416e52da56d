"""Which other programs used the machine during a run: a look at /proc from outside the lab.

Inside, the lab's PID namespace hides them. Programs are named without their arguments, for those
may hold secrets.
"""

import os
from pathlib import Path

import msgspec

MOST_NAMED = 3
LEAST_S = 0.1  # of CPU that is worth a name


class Program(msgspec.Struct, frozen=True):
    """A process that is none of ours, and the CPU seconds that it used during the run.

    Children that ended meanwhile count.
    """

    pid: int
    name: str
    cpu_s: float


class Seen(msgspec.Struct, frozen=True):
    """A process at one moment; the same `pid` with another `start` is another process.

    `cpu_s` counts its children that have ended, too: many short ones are somebody's.
    """

    parent: int
    start: int
    name: str
    cpu_s: float


def processes(proc: Path = Path("/proc")) -> dict[int, Seen]:
    """Every process that we may see, with the CPU that it used so far."""
    found = {}
    per_s = os.sysconf("SC_CLK_TCK")
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue  # it ended meanwhile
        words = rest.split()  # from field 3 of proc_pid_stat(5) on
        cpu_s = sum(int(word) for word in words[11:15]) / per_s
        found[int(entry.name)] = Seen(int(words[1]), int(words[19]), name, cpu_s)
    return found


def busiest(before: dict[int, Seen], after: dict[int, Seen], ours: set[int]) -> list[Program]:
    """Who used most CPU between two looks; `ours` and their descendants are left out.

    Of a process that ended before the second look its parent has the time.
    """
    programs = []
    for pid, seen in after.items():
        if _descends(pid, after, ours):
            continue
        then = before.get(pid)
        used_s = seen.cpu_s - (then.cpu_s if then and then.start == seen.start else 0.0)
        if used_s >= LEAST_S:
            programs.append(Program(pid, seen.name, round(used_s, 2)))
    return sorted(programs, key=lambda one: (-one.cpu_s, one.pid))[:MOST_NAMED]


def _descends(pid: int, seen: dict[int, Seen], ours: set[int]) -> bool:
    walked: set[int] = set()
    while pid not in walked:
        if pid in ours:
            return True
        walked.add(pid)
        pid = seen[pid].parent if pid in seen else 0
    return False

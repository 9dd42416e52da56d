"""Which other programs used the machine during a run: a look at /proc from outside the lab.

Inside, the lab's PID namespace hides them. Programs are named without their arguments, for those
may hold secrets.
"""

import os
from collections import defaultdict
from pathlib import Path

import msgspec

MOST_NAMED = 8
LEAST_S = 0.1  # of CPU that is worth a name
INIT = 1  # whose are the orphans of all others


class Program(msgspec.Struct, frozen=True):
    """A process that is none of ours, and the CPU seconds that it used during the run.

    Children that ended meanwhile count, if it used some itself: a shell that only waits for its
    commands is not what used them.
    """

    pid: int
    name: str
    cpu_s: float


class Seen(msgspec.Struct, frozen=True):
    """A process at one moment; the same `pid` with another `start` is another process.

    `cpu_s` counts its children that have ended, too: many short ones are somebody's. `itself_s` is
    its own part of that.
    """

    parent: int
    start: int
    name: str
    cpu_s: float
    itself_s: float


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
        itself_s, cpu_s = (sum(map(int, words[11:end])) / per_s for end in (13, 15))
        found[int(entry.name)] = Seen(int(words[1]), int(words[19]), name, cpu_s, itself_s)
    return found


def busiest(before: dict[int, Seen], after: dict[int, Seen], ours: set[int]) -> list[Program]:
    """Who used most CPU between two looks; `ours` and their descendants are left out.

    So are PID 1 and whoever only waited for others: ending them would help nobody.

    Of a process that ended before the second look its parent has the time, and all that it had
    used before the first one with it: that is no use of this run's.
    """
    earlier_s: defaultdict[int, float] = defaultdict(float)
    for pid, then in before.items():
        if _same(pid, before, after):
            earlier_s[pid] += then.cpu_s
        elif heir := _heir(pid, before, after):
            earlier_s[heir] += then.cpu_s
    programs = []
    for pid, seen in after.items():
        used_s = seen.cpu_s - earlier_s[pid]
        itself_s = seen.itself_s - (before[pid].itself_s if _same(pid, before, after) else 0.0)
        worked = pid != INIT and min(used_s, itself_s) >= LEAST_S
        if worked and not _descends(pid, after, ours):
            programs.append(Program(pid, seen.name, round(used_s, 2)))
    return sorted(programs, key=lambda one: (-one.cpu_s, one.pid))[:MOST_NAMED]


def _same(pid: int, before: dict[int, Seen], after: dict[int, Seen]) -> bool:
    return pid in before and pid in after and after[pid].start == before[pid].start


def _heir(pid: int, before: dict[int, Seen], after: dict[int, Seen]) -> int | None:
    """The nearest ancestor of a process that still was there at the second look."""
    walked: set[int] = set()
    while pid in before and pid not in walked:
        if _same(pid, before, after):
            return pid
        walked.add(pid)
        pid = before[pid].parent
    return None


def _descends(pid: int, seen: dict[int, Seen], ours: set[int]) -> bool:
    walked: set[int] = set()
    while pid not in walked:
        if pid in ours:
            return True
        walked.add(pid)
        pid = seen[pid].parent if pid in seen else 0
    return False

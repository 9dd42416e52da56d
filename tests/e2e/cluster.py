"""Running the command as a user does, and looking at what it leaves on the machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TESTBED = [sys.executable, "-m", "testbed.cli.main"]
TIMEOUT_S = 280.0

ONE_TURN = ("workload.agents=1", "workload.turns=1", "workload.mid_decode=0")
SMALL = ("workload.agents=48", "workload.turns=2", "workload.openings=4")


def arguments(verb: str, experiment: str, runs: Path, *settings: str) -> list[str]:
    """A command line at one real second a target second; settings are KEY=VALUE."""
    path = str(ROOT / "topologies" / experiment)
    words = [*TESTBED, verb, path, "--runs", str(runs), "--json", "--time-scale", "1"]
    for setting in settings:
        words += ["--set", setting]
    return words


def environment(cache: Path) -> dict[str, str]:
    """The user's, with a cache of the test's own."""
    return {**os.environ, "XDG_CACHE_HOME": str(cache)}


def call(words: list[str], cache: Path, code: int = 0) -> Any:
    """Run to the end; the result's JSON, after checking the exit code."""
    ended = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment(cache),
        check=False,
    )
    assert ended.returncode == code, ended.stderr + ended.stdout[-2000:]
    return json.loads(ended.stdout) if ended.stdout else None


def descendants(pid: int) -> set[int]:
    """Every live process below one, at this moment."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(words[1]), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child)
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie waits for its parent and holds nothing."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.add(pid)
    return found


def wait_for(condition: Any, deadline_s: float, what: str) -> None:
    """Poll until it holds; AssertionError names what did not."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {deadline_s} s"
        time.sleep(0.02)  # the period of a poll with a deadline

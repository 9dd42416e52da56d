"""A policy that fails in the emulated world: named with its request, and nothing is left behind."""

import subprocess
from pathlib import Path

import pytest
from cluster import ONE_TURN, arguments, environment

FEW = ("workload.agents=6", "workload.turns=1", "workload.openings=2", "workload.mid_decode=0")
HEAD = """
from scheduler.policies.dualpath import DualPath


class Mine(DualPath):
"""
RAISES = """
    def reads(self, cluster, request, pe, de):
        if request.id == 3:
            return 1 / 0
        return super().reads(cluster, request, pe, de)
"""
FORGETS = """
    def arrived(self, cluster, request):
        if request.id != 3:
            yield from super().arrived(cluster, request)
"""
LOOPS = """
    def arrived(self, cluster, request):
        while True: pass
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "mine.py"


def fail(mine: Path, body: str, *settings: str) -> str:
    """The last line that is said of a run whose policy has this body; it left nothing behind."""
    mine.write_text(HEAD + body)
    runs = mine.parent / "runs"
    words = [*arguments("run", "1p1d.yaml", runs, *settings), "--policy", f"{mine}:Mine"]
    ended = subprocess.run(
        words, capture_output=True, text=True, timeout=200, check=False,
        env=environment(mine.parent / "cache"),
    )  # fmt: skip
    assert ended.returncode == 1 and ended.stdout == "", ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(runs.glob("*/*/store"))
    assert not [line for line in _commands() if str(runs) in line]
    return ended.stderr.splitlines()[-1].removeprefix("testbed: policy Mine: ")


def _commands() -> list[str]:
    """What every live process was started with."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended since
    return found


def test_one_that_raises(mine: Path) -> None:
    said = fail(mine, RAISES, *FEW)
    assert said.startswith("host sched ended with code 1: PolicyFailed: the policy failed on ")
    assert "request 3 at mine.py:9 (reads): ZeroDivisionError: division by zero" in said


def test_one_that_forgets_a_request_ends_with_the_deadline(mine: Path) -> None:
    said = fail(mine, FORGETS, *FEW, "engine.deadline_s=15")
    assert "the end of turn 3 took longer than 15 s" in said
    assert said.endswith("; sched waited: turn 3 for the policy's decision")


def test_one_that_never_answers(mine: Path) -> None:
    said = fail(mine, LOOPS, *ONE_TURN)
    assert "the policy failed on request 1 at mine.py:8 (arrived): NoAnswer: no answer" in said

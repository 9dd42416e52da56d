"""A policy that fails ends its run with its request and its line, and nothing else is said."""

import signal
from pathlib import Path

import pytest

from testbed.cli.main import main
from testbed.worlds import guard

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"
SMALL = ("--set", "workload.agents=6", "--set", "workload.turns=1", "--set", "workload.openings=2")
HEAD = """
from scheduler import path
from scheduler.policies.dualpath import DualPath
from scheduler.policy import Placement
from scheduler.types import ReadExtent, Side


class Mine(DualPath):
"""


def fail(
    body: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str, verb: str = "run"
) -> str:
    """The one line that is said of a policy with this body, after the run's facts."""
    file = tmp_path / "mine.py"
    file.write_text(HEAD + body)
    policy = (
        ["--policies", f"basic,{file}:Mine"] if verb == "compare" else ["--policy", f"{file}:Mine"]
    )
    words = [verb, str(FILE), "--world", "virtual", "--runs", str(tmp_path / "runs"), *policy]
    assert main([*words, *SMALL, *more]) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert said.out == "" and not any("Traceback" in line for line in lines)
    assert [line for line in lines if line.startswith("testbed: ")] == lines[-1:]
    return lines[-1].removeprefix("testbed: policy Mine: ")


RAISES = """
    def reads(self, cluster, request, pe, de):
        if request.id == 3:
            return 1 / 0
        return super().reads(cluster, request, pe, de)
"""


@pytest.mark.parametrize("verb", ["run", "compare"])
def test_one_that_raises(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fail(RAISES, tmp_path, capsys, verb=verb)
    assert said == (
        "the policy failed on request 3 at mine.py:12 (reads): ZeroDivisionError: division by zero"
    )


PREFILL = """
    def prefill(self, cluster, group):
        engine = cluster.groups[group].engines[0].name
        for request in cluster.waiting(Side.PE):
            {}
            yield Placement(request.id, engine)
"""


PLACED = "request {} was placed on {}, but {}; correct the policy"


@pytest.mark.parametrize(("line", "request_id", "at", "says"), [
    ("assert request.id < 2, 'two\\nlines'", 2, 13, "AssertionError: two lines"),
    ("yield Placement(request.id, 'pe9/9')", 1, 13,
     PLACED.format(1, "'pe9/9'", "this engine is not in the cluster")),
    ("yield Placement(request.id, engine)", 1, 14,
     PLACED.format(1, "pe0/0", "already has a PE")),
    ("yield Placement(99, engine)", 99, 13,
     PLACED.format(99, "'pe0/0'", "this request is not live")),
    ("yield request", 1, 13, "a placement is Request(id=1,"),
    ("raise SystemExit", 1, 13, "SystemExit: "),
    ("raise GeneratorExit", 1, 13, "GeneratorExit: "),
])  # fmt: skip
def test_placements_that_cannot_be(
    line: str, request_id: int, at: int, says: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    said = fail(PREFILL.format(line), tmp_path, capsys)
    assert f"the policy failed on request {request_id} at mine.py:{at} (prefill): {says}" in said


@pytest.mark.parametrize(("reads", "says"), [
    ("()", "do not cover its"),
    ("None", "the reads None of request 1 are no tuple of ReadExtent(Side.PE or Side.DE, first,"),
    ("(ReadExtent('pe', 0, 5),)", "are no tuple of ReadExtent(Side.PE or Side.DE, first, count)"),
    ("2 * path.whole(cluster, request, Side.PE)", "do not cover its"),
])  # fmt: skip
def test_reads_that_cannot_be(
    reads: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = f"    def reads(self, cluster, request, pe, de):\n        return {reads}\n"
    said = fail(body, tmp_path, capsys)
    assert said.startswith("the policy failed on request 1 at Mine.reads: ") and says in said


@pytest.mark.parametrize("body", [
    "    def decode(self, cluster, group):\n        return None\n",
    "    def fetch(self, cluster, group):\n        pass\n",
    "    def arrived(self, cluster, request):\n        pass\n",
])  # fmt: skip
def test_one_that_decides_nothing_for_ever(
    body: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fail(body, tmp_path, capsys)
    assert said.startswith("the policy leaves turns undecided, and every engine is idle: nothing")
    assert "nothing can: sched: turn 1 for the policy's decision; agents: the end of turn 1" in said


SWALLOWS = """while True:
                try:
                    request.wait()
                except Exception:
                    pass"""


@pytest.mark.parametrize("line", ["while True: pass", "import time; time.sleep(1000)", SWALLOWS])
def test_one_that_never_answers(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LOOK_PERIOD_S", 0.2)
    before = signal.getsignal(signal.SIGALRM)
    said = fail(PREFILL.format(line), tmp_path, capsys)
    assert said.startswith("the policy failed on request 1 at mine.py:1")
    assert "(prefill): NoAnswer: no answer in 0.2 s" in said
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0  # this test's own limit


def test_a_point_of_a_sweep_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(HEAD + RAISES)
    (tmp_path / "grid.yaml").write_text(
        "experiment: 1p1d.yaml\npolicies: [mine.py:Mine, pe-only]\n"
    )
    words = ["sweep", str(tmp_path / "grid.yaml"), "--runs", str(tmp_path / "runs")]
    assert main([*words, "--processes", "1", *SMALL]) == 1
    assert "Mine, 6 agents, seed 0: RunFailed: policy Mine: the policy failed on" in (
        capsys.readouterr().err
    )

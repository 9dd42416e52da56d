"""Schedulers in other processes play whole clusters in virtual time, ours and the examples."""

import gzip
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scheduler.lookup import names
from testbed.cli.main import main

ROOT = Path(__file__).parents[2]
FEW = ("workload.agents=24", "workload.turns=2", "workload.openings=4")
TESTBED = (sys.executable, "-m", "testbed.cli.main")
NOT_RUNNING = "ZX"


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def words(verb: str, runs: Path, *more: str) -> list[str]:
    command = [verb, "topologies/1p2d.yaml", "--world", "virtual", "--runs", str(runs), "--json"]
    command += ["--require", "functional"]
    return [*command, *(word for setting in FEW for word in ("--set", setting)), *more]


def ours(policy: str) -> str:
    return shlex.join([*TESTBED, "scheduler", "--policy", policy])


def python(program: str) -> str:
    return shlex.join([sys.executable, "-c", program])


def played(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, Any]:
    """The results by policy, all turns done and all tokens right."""
    assert main(list(command)) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["policies"]
    for policy in found.values():
        assert policy["completed_turns"] == 48 and policy["failed_turns"] == 0
        assert policy["tokens_checked"] == policy["tokens_equal"] > 48
    return found


def log(runs: Path, policy: str) -> list[bytes]:
    """The scheduler's log of a run, without the line that names the policy."""
    with gzip.open(runs / "1p2d-1" / policy / "scheduler.jsonl.gz") as lines:
        return list(lines)[1:]


def events(runs: Path, policy: str) -> bytes:
    return (runs / "1p2d-1" / policy / "events.jsonl").read_bytes()


@pytest.mark.parametrize("policy", names())
def test_a_policy_decides_the_same_in_a_run_in_a_replay_and_in_another_process(
    policy: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(words("run", tmp_path / "here", "--policy", policy)) == 0
    assert main(words("run", tmp_path / "there", "--scheduler-cmd", ours(policy))) == 0
    there = Path(sys.executable).name
    assert log(tmp_path / "here", policy) == log(tmp_path / "there", there)
    assert events(tmp_path / "here", policy) == events(tmp_path / "there", there)

    capsysbinary.readouterr()
    path = str(tmp_path / "here/1p2d-1" / policy / "scheduler.jsonl.gz")
    decided = [line for line in log(tmp_path / "here", policy) if b'"type":"decided"' in line]
    for way in ([], ["--scheduler-cmd", ours(policy)]):
        assert main(["decide", "--replay", path, "--check", *way]) == 0
        assert capsysbinary.readouterr().out == b"".join(decided) != b""


@pytest.mark.parametrize(("program", "script"), [
    ("perl", "scheduler.pl"), ("python3", "scheduler.py"),
])  # fmt: skip
def test_an_example_plays_a_cluster(
    program: str, script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} on this machine")
    command = f"{program} docs/examples/{script}"
    found = played(capsys, *words("run", tmp_path, "--scheduler-cmd", command))
    assert 0.2 < found[script]["path_share"]["pe"] < 0.8


def test_it_is_compared_with_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--policies", "basic,dualpath", "--scheduler-cmd", ours("dualpath"))
    found = played(capsys, *words("compare", tmp_path, *more))
    own = Path(sys.executable).name
    assert list(found) == ["basic", "dualpath", own]
    assert found[own]["ttft_s"] == found["dualpath"]["ttft_s"] != found["basic"]["ttft_s"]


@contextmanager
def listening(path: Path) -> Iterator[None]:
    command = [*TESTBED, "scheduler", "--listen", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"listening on {path}\n"
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
    assert not path.exists()


def test_one_that_listens_serves_run_after_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    door = tmp_path / "door"
    with listening(door):
        for runs in ("a", "b"):
            with socket.socket(socket.AF_UNIX) as gone:  # a run that was killed
                gone.connect(str(door))
                gone.sendall(b'{"type":"he')
            played(capsys, *words("run", tmp_path / runs, "--scheduler", f"unix:{door}"))
    assert events(tmp_path / "a", "door") == events(tmp_path / "b", "door")


# It answers `hello` of two processes: the first is asked what it wants, the second plays.
READY = '{"type":"ready","version":1,"traits":{"layerwise":true}}'
DECIDED = '{"type":"decided","decisions":[]}'
LAZY = f"""
import sys
for number, line in enumerate(sys.stdin):
    print('{READY}' if number == 0 else '{DECIDED}', flush=True)
"""


@pytest.mark.parametrize(("program", "why"), [
    (LAZY.replace(DECIDED, "{"), "answered with no line of the protocol"),
    (LAZY.replace(DECIDED, READY), "answered with another line than `decided`"),
    (LAZY.replace("number == 0", "number == 0 or sys.exit('out of ideas')"),
     "has ended, asked with line 2, request 1 arrives at 0.0002 s; exit code 1; "
     "the last that it said: out of ideas"),
    (LAZY.replace("print(", "print() if number > 8 else print("), "no line of the protocol"),
    (LAZY.replace('"decisions":[]', '"decisions":[{"seq":1,"request_id":1,"pe":"pe7/0",'
     '"de":"de0/0","reads":[]}]'),
     "decided request 1 wrongly: request 1 was placed on 'pe7/0', but this engine is not in the"),
    (LAZY, "sched: turn 1 for the policy's decision"),
])  # fmt: skip
def test_one_that_errs_in_a_run_is_named(
    program: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("run", tmp_path, "--scheduler-cmd", python(program))) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"testbed: policy {Path(sys.executable).name}: ") and why in said


@pytest.mark.parametrize(("command", "code", "why"), [
    (python("input(); print('hm')"), 1, "answered with no line of the protocol"),
    (python(LAZY.replace('"version":1', '"version":2')), 1, "speaks version 2 of the protocol"),
    (python("import time; time.sleep(600)"), 1, "did not answer within 0.5 s"),
    ("./nobody", 2, "there is no program './nobody'"),
])  # fmt: skip
def test_one_that_cannot_begin_leaves_nothing(
    command: str, code: int, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patience = ("--set", "engine.scheduler_deadline_s=0.5")
    assert main(words("run", tmp_path / "runs", *patience, "--scheduler-cmd", command)) == code
    assert why in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_two_schedulers_for_one_run_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("run", tmp_path, "--policy", "basic", "--scheduler-cmd", "x")) == 2
    assert "choose one" in capsys.readouterr().err


# It neither minds Ctrl-C nor the end of its input, and leaves the first event without an answer.
STUBBORN = f"""
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.stdin.readline()
print('{READY}', flush=True)
if sys.stdin.readline():
    open(sys.argv[1], 'w').write(f'{{os.getpid()}}\\n')
    time.sleep(600)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_run_that_is_interrupted(sent: signal.Signals, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    stubborn = f"{python(STUBBORN)} {shlex.quote(str(pid_file))}"
    command = [*TESTBED, *words("run", tmp_path / "runs", "--scheduler-cmd", stubborn)]
    command += ["--set", "engine.scheduler_deadline_s=600"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        pid = awaited_pid(pid_file)
        process.send_signal(sent)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == (130 if sent != signal.SIGKILL else -sent), err
    end_s = time.monotonic() + 20
    while state(pid) not in NOT_RUNNING and time.monotonic() < end_s:
        time.sleep(0.02)  # the period of a poll with a deadline
    assert state(pid) in NOT_RUNNING


def awaited_pid(path: Path) -> int:
    end_s = time.monotonic() + 60
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < end_s
        time.sleep(0.02)  # the period of a poll with a deadline
    return int(path.read_text())


def state(pid: int) -> str:
    """The letter of a process's state, X if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"

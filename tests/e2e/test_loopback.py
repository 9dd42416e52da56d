"""The cluster without namespaces: what it needs, what it shows, and that it leaves nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import unprivileged
from cluster import ROOT, TIMEOUT_S, alive, arguments, descendants, environment, wait_for

from testbed.results.verdict import UNSHAPED
from testbed.worlds.account import HostAccount

HERE = Path(__file__).parent
FEW = ("workload.agents=12", "workload.turns=2", "workload.openings=4", "workload.mid_decode=0")
UNFOLDED = ("cluster.folded=false", "cluster.gpus_per_node=2")
RESTARTS = "engine.scheduler_restart_s=[0.6, 4, 9, 9.02]"
GONE_WITHIN_S = 5.0


def words(verb: str, experiment: str, runs: Path, *settings: str) -> list[str]:
    return [*arguments(verb, experiment, runs, *settings), "--fabric", "loopback"]


def play(command: list[str], env: dict[str, str], code: int = 0) -> Any:
    """Run to the end; the JSON, or what it said if the exit code is not 0."""
    ended = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert ended.returncode == code, ended.stderr + ended.stdout[-2000:]
    return ended.stderr if code else json.loads(ended.stdout)


def require_right(result: Any, turns: int) -> None:
    assert result["fabric"] == "loopback" and result["speedup"] == {}
    verdict = result["verdict"]
    assert (verdict["functional"], verdict["timing"]) == ("passed", "inconclusive")
    assert verdict["causes"] == [f"{name}: {UNSHAPED}" for name in result["policies"]]
    for found in result["policies"].values():
        assert (found["completed_turns"], found["failed_turns"]) == (turns, 0)
        assert found["tokens_checked"] == found["tokens_equal"] >= turns
        lines = {line["port"]: line for line in found["ledger"]}
        assert lines["storage:snic:tx"]["expected_bytes"] > 0
        for line in lines.values():  # to the byte
            assert line["counted_bytes"] == line["expected_bytes"], line


def generated(result: Any, policy: str) -> dict[int, bytes]:
    """Every turn's tokens, by request."""
    path = Path(result["folder"]) / policy / "accounts" / "agents.msgpack"
    account = msgspec.msgpack.decode(path.read_bytes(), type=HostAccount)
    return {turn.request.id: turn.generated for turn in account.turns}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.skipif(not unprivileged.available(), reason="this machine's calls are not known")
def test_a_container_without_any_privilege_gets_the_tokens_of_the_namespaces(
    tmp_path: Path, cache: Path
) -> None:
    for package in ("mininet", "pyroute2"):
        (tmp_path / "without" / package).mkdir(parents=True)
        (tmp_path / "without" / package / "__init__.py").write_text("raise ImportError('not here')")
    env = environment(cache) | {"PYTHONPATH": f"{tmp_path / 'without'}:{ROOT}"}
    confined = [sys.executable, str(HERE / "unprivileged.py")]
    usual = arguments("compare", "1p1d.yaml", tmp_path / "runs", *FEW)
    said = play([*confined, *usual], env, code=4)
    assert "no private namespaces: unshare" in said.splitlines()[-1]
    # Not even the programs are there that others need.
    loopback = [*confined, *usual, "--fabric", "loopback"]
    found = play(loopback, env | {"PATH": str(tmp_path / "nothing")})
    require_right(found, 24)
    assert set(found["policies"]) == {"basic", "dualpath"}
    namespaces = play([*usual, "--require", "functional"], environment(cache))
    assert namespaces["fabric"] == "namespaces" and set(namespaces["speedup"])
    for policy in found["policies"]:
        tokens = generated(found, policy)
        assert len(tokens) == 24 and all(tokens.values())
        assert tokens == generated(namespaces, policy)


def test_timing_that_was_asked_for_is_inconclusive_whatever_the_cluster(
    tmp_path: Path, cache: Path
) -> None:
    command = words("run", "1p2d.yaml", tmp_path / "runs", *FEW, *UNFOLDED, RESTARTS)
    ended = subprocess.run(
        [*command, "--require", "timing"], env=environment(cache), capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 3, ended.stderr
    result = json.loads(ended.stdout)
    require_right(result, 24)
    found = result["policies"]["dualpath"]
    assert len(found["restarts"]) == 4
    assert sum(found["model_bytes"].values()) > 0  # collectives go their own way
    assert found["retransmitted_bytes"] == 0  # the machine's count is not this run's


def test_two_runs_at_once_and_one_address_alone(tmp_path: Path, cache: Path) -> None:
    """Two runs beside each other do not meet; and ports stand in where addresses are missing."""
    narrow = [sys.executable, str(HERE / "one_address.py"), "launch"]
    env = environment(cache) | {"PYTHONPATH": str(ROOT)}
    commands = [
        words("run", "1p1d.yaml", tmp_path / "one", *FEW),
        words("run", "1p1d.yaml", tmp_path / "two", *FEW),
        [*narrow, *words("run", "1p1d.yaml", tmp_path / "narrow", *FEW)],
    ]
    started = [
        subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    results = []
    for process in started:
        with process:
            out, err = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, err
            results.append(json.loads(out))
    for result in results:
        require_right(result, 24)
    directories = [directory_of(Path(result["folder"])) for result in results]
    ends = [{end for own in found.values() for end in own.values()} for found in directories]
    assert not ends[0] & ends[1]
    assert {end.partition(":")[0] for end in ends[2]} == {"127.0.0.1"}
    assert len(ends[2]) == len(directories[2])


def directory_of(folder: Path) -> dict[str, dict[str, str]]:
    raw = (folder / "dualpath" / "hosts" / "sched.msgpack").read_bytes()
    found: dict[str, dict[str, str]] = msgspec.msgpack.decode(raw)["directory"]
    return found


def lab(pid: int) -> int | None:
    """The lab below a command, by its program."""
    for child in descendants(pid):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"testbed.worlds.loopback" in line and parent(child) == pid:
            return child
    return None


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def server(pid: int) -> int:
    found = lab(pid)
    assert found is not None
    return next(child for child in descendants(found) if parent(child) == found)


def host(pid: int) -> int:
    return next(child for child in descendants(server(pid)) if parent(child) == server(pid))


def the_lab(pid: int) -> int:
    found = lab(pid)
    assert found is not None
    return found


WHOM: dict[str, tuple[Callable[[int], int], signal.Signals, int]] = {
    "supervisor": (lambda pid: pid, signal.SIGKILL, -9),
    "lab": (the_lab, signal.SIGKILL, 1),
    "forkserver": (server, signal.SIGKILL, 1),
    "host": (host, signal.SIGKILL, 1),
    "interrupted": (lambda pid: pid, signal.SIGINT, 130),
}


@pytest.mark.parametrize("whom", WHOM)
def test_whoever_is_killed_no_process_is_left(tmp_path: Path, cache: Path, whom: str) -> None:
    find, how, code = WHOM[whom]
    command = words("run", "1p1d.yaml", tmp_path / "runs", *FEW, "workload.turns=50")
    with subprocess.Popen(
        command, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        try:
            wait_for(lambda: len(descendants(process.pid)) >= 9, 100, "the start of every host")
            below = descendants(process.pid)
            os.kill(find(process.pid), how)
            _, said = process.communicate(timeout=30)
            assert process.returncode == code, said
            if code >= 0:  # it returns when all are gone, zombies too
                assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
            wait_for(lambda: not alive(below), GONE_WITHIN_S, "the end of every process")
        finally:
            process.kill()
    if code == 1:
        last = said.strip().splitlines()[-1]
        assert last.startswith("testbed: policy dualpath: "), said

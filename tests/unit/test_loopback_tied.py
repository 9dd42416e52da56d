"""A process tree without a PID namespace ends with any part of what holds it, whoever is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.errors import EnvironmentUnfit
from testbed.worlds import tied
from testbed.worlds.tied import hold_group

HERE = Path(__file__).parents[1]
sys.path.append(str(HERE / "e2e"))
from cluster import alive, wait_for  # noqa: E402

GONE_WITHIN_S = 10.0
# A lab, its server and two hosts, which wait; the lab ends when it hears of its server's end.
LAB = """
import os, signal, sys, time
from pathlib import Path
from testbed.worlds.forkserver import _end_with
from testbed.worlds.tied import hold_group

folder = Path(sys.argv[1])
if (folder / "alone").exists():  # other systems than Linux tell no process of its parent's end
    _end_with = lambda parent: None

def here(name):
    part = folder / f"{name}.part"
    part.write_text(str(os.getpid()))
    part.rename(folder / name)

lab = os.getpid()
if os.fork() == 0:
    _end_with(lab)
    os.dup2(2, 1)
    server = os.getpid()
    for host in ("one", "two"):
        if os.fork() == 0:
            _end_with(server)
            here(host)
            signal.pause()
    here("server")
    pid, _ = os.wait()
    os._exit(0)
hold_group()
here("lab")
os.wait()
"""
SUPERVISOR = """
import os, subprocess, sys
from pathlib import Path
from testbed.worlds.tied import tied

folder = Path(sys.argv[1])
with (folder / "words").open("wb") as words:
    argv = [sys.executable, str(folder / "lab.py"), str(folder)]
    with tied(argv, stdout=subprocess.PIPE, stderr=words, env=dict(os.environ)) as lab:
        lab.popen.stdout.read()
(folder / "closed").write_text(" ".join(
    name for name in ("lab", "server", "one", "two")
    if Path("/proc", (folder / name).read_text()).exists()
))
"""
PARTS = ("lab", "server", "one", "two")


def pids(folder: Path) -> dict[str, int]:
    return {name: int((folder / name).read_text()) for name in PARTS if (folder / name).exists()}


@pytest.mark.parametrize("whom", ["supervisor", *PARTS])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("alone", [False, True])
def test_whoever_is_killed_none_is_left(
    tmp_path: Path, whom: str, how: signal.Signals, alone: bool
) -> None:
    """By the group and the lifeline alone, too."""
    (tmp_path / "lab.py").write_text(LAB)
    if alone:
        (tmp_path / "alone").touch()
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    with subprocess.Popen(command, env=environment) as supervisor:
        try:
            wait_for(lambda: len(pids(tmp_path)) == len(PARTS), 60, "the start of the tree")
            found = {**pids(tmp_path), "supervisor": supervisor.pid}
            os.kill(found[whom], how)
            supervisor.wait(30)
            wait_for(lambda: not alive(set(found.values())), GONE_WITHIN_S, "the end of all")
        finally:
            supervisor.kill()
    if whom != "supervisor":  # it returns when nothing is left, not even a zombie
        assert (tmp_path / "closed").read_text() == ""


def test_a_program_that_leads_no_group_of_its_own_ends_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(EnvironmentUnfit, match="leads no group with a lifeline"):
        hold_group()
    monkeypatch.setenv(tied.LIFELINE_ENV, "0")
    monkeypatch.setattr(os, "getpgrp", lambda: os.getpid() + 1)
    with pytest.raises(EnvironmentUnfit):
        hold_group()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets processes adopt")
def test_who_adopted_orphans_for_a_run_adopts_none_afterwards() -> None:
    script = """
import os
from testbed.worlds.tied import _adopting

def adopts():
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.read(ready, 1)
        os._exit(0)
    os.waitpid(child, 0)
    os.write(go, b"x")
    try:
        return os.waitpid(-1, 0)[0] > 0
    except ChildProcessError:
        return False

before = adopts()
with _adopting():
    within = adopts()
print(before, within, adopts())
"""
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.split() == ["False", "True", "False"]

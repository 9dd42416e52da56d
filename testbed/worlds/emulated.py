"""The supervisor's side of the emulated world: one lab per run, watched to its end."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import msgspec

from testbed import owner
from testbed.clusters.control import handed_on
from testbed.clusters.names import claim_free
from testbed.errors import EnvironmentUnfit, RunFailed
from testbed.fabric.private import PrivateProcess, refused, start_private
from testbed.fabric.privilege import mode
from testbed.results.rundata import OTHERS, RunData, load
from testbed.worlds.others import Seen, busiest, processes
from testbed.worlds.plan import LOOPBACK, NAMESPACES, LabPlan
from testbed.worlds.tied import TiedProcess, tied

ENDED = "ended"
PRIVILEGE = "private namespaces:"  # the lab's log begins with it, and how they were made
PACKAGES = {
    NAMESPACES: ("lmdb", "mininet", "pyroute2", "torch", "uvloop"),
    LOOPBACK: ("lmdb", "torch", "uvloop"),
}
EXTRAS = {NAMESPACES: "emulated", LOOPBACK: "loopback"}  # of pyproject.toml, with these packages
Progress = Callable[[str, int, int], None]  # phase, turns ended, turns planned


def run(plan: LabPlan, progress: Progress) -> RunData:
    """Play the plan on its fabric; returns what it left in its folder.

    Raises RunFailed with the lab's reason, EnvironmentUnfit if the namespaces cannot be made.
    """
    require_packages(plan.fabric)
    require_memory(plan)
    folder = Path(plan.world.folder)
    for part in ("accounts", "hosts", "logs", "truth", "store"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "plan.msgpack").write_bytes(msgspec.msgpack.encode(plan))
    log = folder / "lab.log"
    owner.created(Path(plan.world.cache))
    with log.open("wb") as words:
        words.write(f"{PRIVILEGE} {mode()}\n".encode())
        words.flush()
        with _started(plan.fabric, folder, words) as process:
            heard = _follow(process, progress, folder)
    if heard != ENDED:
        lines = log.read_text(errors="replace").strip().splitlines()
        said = [line for line in lines if not line.startswith(PRIVILEGE)]
        last = (said or ["it left no word"])[-1]
        if not heard and refused(last):
            raise EnvironmentUnfit(
                f"no private namespaces: {last}; run `testbed doctor`, or play without them for a "
                f"functional verdict: --fabric {LOOPBACK}"
            )
        raise RunFailed(f"the lab ended early: {last} (whole story: {log})")
    return load(folder)


@contextmanager
def _started(fabric: str, folder: Path, words: IO[bytes]) -> Iterator[PrivateProcess | TiedProcess]:
    """The lab's process, which ends with the with block at the latest."""
    env = _environment(folder)
    if fabric == LOOPBACK:
        with tied(
            _command("loopback", folder), stdout=subprocess.PIPE, stderr=words, env=env
        ) as process:
            yield process
        return
    # While it lives, `testbed status`, `exec` and `link` reach it under its session's name.
    _, listener = claim_free(folder.parent.name)
    with listener:
        private = start_private(
            _command("lab", folder),
            stdout=subprocess.PIPE,
            stderr=words,
            env={**env, **handed_on(listener)},
            pass_fds=(listener.fileno(),),
        )
    with private:
        yield private


def _command(lab: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", f"testbed.worlds.{lab}", str(folder)]


def require_packages(fabric: str = NAMESPACES) -> None:
    """Raise EnvironmentUnfit unless the packages of the emulated world are installed."""
    missing = [name for name in PACKAGES[fabric] if find_spec(name) is None]
    if missing:
        raise EnvironmentUnfit(
            f"the emulated world needs {', '.join(missing)}: pip install '.[{EXTRAS[fabric]}]' in "
            "the project's folder, on Linux; or play in virtual time: --world virtual"
        )


def require_memory(plan: LabPlan) -> None:
    """Raise EnvironmentUnfit if the hosts' memories, all populated at the start, do not fit."""
    layout = plan.world.layout
    tokens = sum(size for host in plan.hosts for size in host.pools.values())
    need = layout.rows(tokens) * layout.row_bytes
    if not Path("/proc/meminfo").exists():
        return  # no Linux, and nobody to ask
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    if need > free:
        raise EnvironmentUnfit(
            f"the hosts' memories take {need / 1e9:.1f} GB here and {free / 1e9:.1f} GB are free; "
            "raise scale.token_scale, or lower hardware.hbm_kv_bytes_per_gpu or dram_buffer_bytes"
        )


def _environment(folder: Path) -> dict[str, str]:
    # One BLAS thread a process; temporary files stay inside the run's folder.
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
    }


def _follow(process: PrivateProcess | TiedProcess, progress: Progress, folder: Path) -> str:
    """Pass on what the lab says; returns its last phase, "" if it never said one.

    Leaves in the folder who else used the machine between the phases "running" and "checking".
    """
    assert process.popen.stdout is not None
    heard = ""
    before: dict[int, Seen] = {}
    for line in process.popen.stdout:
        said = json.loads(line)
        heard = said.get("phase", heard)
        if heard == "failed":
            raise RunFailed(said["reason"])
        if heard == "unfit":
            raise EnvironmentUnfit(said["reason"])
        if heard == ENDED:
            break
        if said.get("phase") == "running":
            before = processes()
        elif said.get("phase") == "checking":
            after = processes()
            # This process is ours; its other children may be anybody's.
            after.pop(os.getpid(), None)
            others = busiest(before, after, {process.popen.pid})
            (folder / OTHERS).write_bytes(msgspec.msgpack.encode(others))
        progress(said.get("phase", "running"), said.get("progress", 0), said.get("total", 0))
    return heard

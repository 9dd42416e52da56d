"""The supervisor's side of the emulated world: one lab per run, watched to its end."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec

from testbed import owner
from testbed.errors import EnvironmentUnfit, RunFailed
from testbed.fabric.private import PrivateProcess, start_private
from testbed.fabric.privilege import mode
from testbed.results.metrics import RunData, load
from testbed.worlds.plan import LabPlan

ENDED = "ended"
PRIVILEGE = "private namespaces:"  # the lab's log begins with it, and how they were made
PACKAGES = ("lmdb", "mininet", "pyroute2", "torch", "uvloop")  # pyproject.toml, extra "emulated"
Progress = Callable[[str, int, int], None]  # phase, turns ended, turns planned


def run(plan: LabPlan, progress: Progress) -> RunData:
    """Play the plan in private namespaces; returns what it left in its folder.

    Raises RunFailed with the lab's reason, EnvironmentUnfit if the namespaces cannot be made.
    """
    require_packages()
    require_memory(plan)
    folder = Path(plan.world.folder)
    for part in ("accounts", "hosts", "logs", "truth", "store"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "plan.msgpack").write_bytes(msgspec.msgpack.encode(plan))
    log = folder / "lab.log"
    command = [sys.executable, "-m", "testbed.worlds.lab", str(folder)]
    owner.created(Path(plan.world.cache))
    with log.open("wb") as words:
        words.write(f"{PRIVILEGE} {mode()}\n".encode())
        words.flush()
        process = start_private(
            command, stdout=subprocess.PIPE, stderr=words, env=_environment(folder)
        )
        with process:
            heard = _follow(process, progress)
    if heard != ENDED:
        lines = log.read_text(errors="replace").strip().splitlines()
        said = [line for line in lines if not line.startswith(PRIVILEGE)]
        last = (said or ["it left no word"])[-1]
        if not heard and "unshare" in last:
            raise EnvironmentUnfit(f"no private namespaces: {last}; run `testbed doctor`")
        raise RunFailed(f"the lab ended early: {last} (whole story: {log})")
    return load(folder)


def require_packages() -> None:
    """Raise EnvironmentUnfit unless the packages of the emulated world are installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise EnvironmentUnfit(
            f"the emulated world needs {', '.join(missing)}: pip install '.[emulated]' in the "
            "project's folder, on Linux; or play in virtual time: --world virtual"
        )


def require_memory(plan: LabPlan) -> None:
    """Raise EnvironmentUnfit if the hosts' memories, all populated at the start, do not fit."""
    layout = plan.world.layout
    tokens = sum(size for host in plan.hosts for size in host.pools.values())
    need = layout.rows(tokens) * layout.row_bytes
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


def _follow(process: PrivateProcess, progress: Progress) -> str:
    """Pass on what the lab says; returns its last phase, "" if it never said one."""
    assert process.popen.stdout is not None
    heard = ""
    for line in process.popen.stdout:
        said = json.loads(line)
        heard = said.get("phase", heard)
        if heard == "failed":
            raise RunFailed(said["reason"])
        if heard == ENDED:
            break
        progress(said.get("phase", "running"), said.get("progress", 0), said.get("total", 0))
    return heard

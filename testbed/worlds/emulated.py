"""The supervisor's side of the emulated world: one lab per run, watched to its end."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec

from testbed.errors import EnvironmentUnfit, RunFailed
from testbed.fabric.private import PrivateProcess, start_private
from testbed.results.metrics import RunData, load
from testbed.worlds.plan import LabPlan

PACKAGES = ("lmdb", "mininet", "pyroute2", "torch", "uvloop")  # pyproject.toml, extra "emulated"
Progress = Callable[[str, int, int], None]  # phase, turns ended, turns planned


def run(plan: LabPlan, progress: Progress) -> RunData:
    """Play the plan in private namespaces; returns what it left in its folder.

    Raises RunFailed with the lab's reason, EnvironmentUnfit if the namespaces cannot be made.
    """
    require_packages()
    folder = Path(plan.world.folder)
    for part in ("accounts", "hosts", "logs", "truth", "store"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "plan.msgpack").write_bytes(msgspec.msgpack.encode(plan))
    log = folder / "lab.log"
    command = [sys.executable, "-m", "testbed.worlds.lab", str(folder)]
    with log.open("wb") as words:
        process = start_private(
            command, stdout=subprocess.PIPE, stderr=words, env=_environment(folder)
        )
        with process:
            ended = _follow(process, progress)
    if not ended:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it left no word"])[-1]
        if "unshare" in last:
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


def _environment(folder: Path) -> dict[str, str]:
    # One BLAS thread a process; temporary files stay inside the run's folder.
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
    }


def _follow(process: PrivateProcess, progress: Progress) -> bool:
    """Pass on what the lab says; whether it said that it ended well."""
    assert process.popen.stdout is not None
    for line in process.popen.stdout:
        said = json.loads(line)
        phase = said.get("phase", "")
        if phase == "failed":
            raise RunFailed(said["reason"])
        if phase == "ended":
            return True
        progress(phase or "running", said.get("progress", 0), said.get("total", 0))
    return False

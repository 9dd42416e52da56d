"""Bringing a cluster's network up: it outlives whoever asked only once it is whole."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from testbed.clusters import names
from testbed.clusters.client import Cluster
from testbed.clusters.control import handed_on
from testbed.clusters.keeper import LOG, PLAN, Step
from testbed.clusters.protocol import About
from testbed.errors import EnvironmentUnfit, InputError, RunFailed
from testbed.fabric.private import PrivateProcess, refused, start_private
from testbed.fabric.privilege import mode
from testbed.session import new_folder
from testbed.spec import Experiment
from testbed.worlds.emulated import require_packages
from testbed.worlds.wires import wire_plan

KEEPER = "testbed.clusters.keeper"
_ERRORS = {2: InputError, 4: EnvironmentUnfit}
_steps = msgspec.json.Decoder(Step)


class Held:
    """A cluster that ends with this process, or with its with block, unless it is let go."""

    def __init__(self, process: PrivateProcess, cluster: Cluster, folder: Path) -> None:
        self._process = process
        self.cluster = cluster
        self.folder = folder

    def let_go(self) -> None:
        """Have it live until `testbed down`."""
        self._process.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()


def bring_up(
    experiment: Experiment, name: str, root: Path, progress: Callable[[Step], None]
) -> Held:
    """Build the network of an experiment under a name, its log in a folder below root.

    Raises InputError if the name is taken, EnvironmentUnfit if this machine cannot; nothing is
    left of it then.
    """
    require_packages()
    with names.claim(name) as listener:
        folder = new_folder(root, name)
        wires = wire_plan(experiment)
        about = About(name, "up", str(folder.resolve()), mode(), time.monotonic(), wires)
        (folder / "experiment.yaml").write_text(experiment.resolved())
        (folder / PLAN).write_bytes(msgspec.msgpack.encode(about))
        process = _start(folder, listener)
    try:
        _follow(process, folder, progress)
        return Held(process, Cluster(name), folder)
    except BaseException:
        process.close()
        raise


def _start(folder: Path, listener: socket.socket) -> PrivateProcess:
    # The package must be found inside however this process was told of it.
    path = os.pathsep.join(filter(None, sys.path))
    with (folder / LOG).open("wb") as log:
        return start_private(
            [sys.executable, "-m", KEEPER, str(folder)],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": path, **handed_on(listener)},
            pass_fds=(listener.fileno(),),
        )


def _follow(process: PrivateProcess, folder: Path, progress: Callable[[Step], None]) -> None:
    assert process.popen.stdout is not None
    with process.popen.stdout as lines:
        for line in lines:
            step = _steps.decode(line)
            if step.phase == "failed":
                raise _ERRORS.get(step.exit_code, RunFailed)(step.reason)
            progress(step)
            if step.phase == "up":
                return
    log = folder / LOG
    last = (log.read_text(errors="replace").strip().splitlines() or ["it left no word"])[-1]
    if refused(last):
        raise EnvironmentUnfit(f"no private namespaces: {last}; run `testbed doctor`")
    raise RunFailed(f"the cluster ended while it came up: {last} (whole story: {log})")

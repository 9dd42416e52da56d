"""Private namespaces end with their supervisor, and nothing touches the network around them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.errors import EnvironmentUnfit
from testbed.fabric import namespaces
from testbed.fabric.fabric import Fabric
from testbed.fabric.private import PrivateProcess, hold_lifeline, start_private
from testbed.fabric.rates import link_rates
from topologies.dualpath import DualPathTopo

HERE = Path(__file__).parent
SITTER = [sys.executable, str(HERE / "fabric_sitter.py")]
PYTHONPATH = os.pathsep.join([str(HERE.parents[1]), *sys.path])
GONE_WITHIN_S = 1.0


def env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PYTHONPATH}


def members(inodes: set[int]) -> set[int]:
    """PIDs of this machine that are in one of the namespaces.

    Not the dead that wait for the machine's init to collect them, at whatever pace that has.
    """
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        for kind in ("net", "pid", "user", "mnt"):
            try:
                inode = (folder / "ns" / kind).stat().st_ino
                dead = "\nState:\tZ" in (folder / "status").read_text()
            except OSError:
                continue
            if inode in inodes and not dead:
                found.add(int(folder.name))
    return found


def gone(inodes: set[int], deadline_s: float = GONE_WITHIN_S) -> bool:
    deadline = time.monotonic() + deadline_s
    while members(inodes):
        if time.monotonic() > deadline:
            return False
    return True


def read_inodes(popen: "subprocess.Popen[bytes]") -> set[int]:
    assert popen.stdout is not None
    inodes = set(json.loads(popen.stdout.readline()))
    assert len(members(inodes)) >= 2  # PID 1 and its host process
    return inodes


@contextmanager
def sitter() -> Iterator[tuple[PrivateProcess, set[int]]]:
    with start_private([*SITTER, "sit"], stdout=subprocess.PIPE, env=env()) as process:
        yield process, read_inodes(process.popen)
        assert process.popen.stdout is not None
        process.popen.stdout.close()


@pytest.mark.usefixtures("privilege")
def test_killing_the_supervisor_leaves_no_process_and_no_namespace() -> None:
    with subprocess.Popen([*SITTER, "launch"], stdout=subprocess.PIPE, env=env()) as launcher:
        inodes = read_inodes(launcher)
        launcher.kill()
        assert gone(inodes)


@pytest.mark.usefixtures("privilege")
def test_killing_unshare_leaves_no_process_and_no_namespace() -> None:
    with sitter() as (process, inodes):
        process.popen.kill()
        assert gone(inodes)


@pytest.mark.usefixtures("privilege")
def test_killing_pid_1_leaves_no_process_and_no_namespace() -> None:
    with sitter() as (process, inodes):
        children = Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children").read_text()
        (pid_1,) = (int(pid) for pid in children.split())
        assert pid_1 in members(inodes)
        os.kill(pid_1, signal.SIGKILL)
        assert process.popen.wait(5) != 0
        assert gone(inodes)


@pytest.mark.usefixtures("privilege")
def test_terminate_ends_pid_1_in_good_order() -> None:
    with sitter() as (process, inodes):
        process.terminate()
        assert process.popen.wait(5) == 128 + signal.SIGTERM
        assert gone(inodes)


@pytest.mark.usefixtures("privilege")
def test_close_ends_everything() -> None:
    with sitter() as (process, inodes):
        process.close()
        assert gone(inodes)


@pytest.mark.usefixtures("privilege")
def test_building_a_fabric_leaves_the_machines_own_network_as_it_was() -> None:
    before = socket.if_nameindex(), os.stat("/proc/self/ns/net").st_ino
    with sitter():
        assert socket.if_nameindex() == before[0]
    assert (socket.if_nameindex(), os.stat("/proc/self/ns/net").st_ino) == before


def test_a_fabric_refuses_to_start_outside_private_namespaces() -> None:
    topo = DualPathTopo(1, 1)
    rates = link_rates(topo.shape, snic_bps=1e8, cnic_bps=1e9, pcie_bps=1e9, uplink_bps=1e9)
    with pytest.raises(EnvironmentUnfit, match="not PID 1 of private namespaces"):
        Fabric(topo, rates).start()


def test_joining_the_namespace_one_is_in_is_refused() -> None:
    fd = namespaces.open_current()
    try:
        with pytest.raises(EnvironmentUnfit, match="started in"):
            namespaces.join(fd)
    finally:
        os.close(fd)


def test_a_program_without_lifeline_is_refused() -> None:
    with pytest.raises(EnvironmentUnfit, match="lifeline"):
        hold_lifeline()

"""The control socket: whatever callers do, the cluster goes on and answers the next one."""

import gc
import os
import select
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from testbed.clusters import names
from testbed.clusters.client import Cluster
from testbed.clusters.control import MOST_CALLERS, Control
from testbed.clusters.protocol import About
from testbed.errors import InputError, RunFailed
from testbed.fabric.addresses import HostNet, NicAddress
from testbed.fabric.counters import LinkClasses, LinkCounters
from testbed.fabric.linkstate import LinkState
from testbed.fabric.wire import ClassCounters
from testbed.worlds.plan import WirePlan

T = TypeVar("T")
WIRES = WirePlan(1, 1, 8, True, 1, True, 1e8, 1e8, 1e8, 1e8, {})


class ManyLinks:
    """Stands for a fabric of so many hosts with one shaped link each."""

    qos = True

    def __init__(self, count: int) -> None:
        nic = NicAddress("storage", "198.18.0.1", 17, "02:00:00:00:00:01")
        self.hosts = {
            f"de{number}-buf": HostNet(f"de{number}-buf", -1, {"storage": nic.ip}, {"snic": nic})
            for number in range(count)
        }
        self.topo = SimpleNamespace(links=lambda withInfo: [])
        self.broken = False

    def links(self) -> list[LinkState]:
        if self.broken:
            raise KeyError("a fault of our own")
        return [LinkState(host, "snic", 1e8, 0.0, 1e8, 0.0, "none") for host in self.hosts]

    def counters(self) -> dict[tuple[str, str], LinkCounters]:
        return {(host, "snic"): LinkCounters(10**12, 10**9, 10**12, 10**9) for host in self.hosts}

    def class_counters(self) -> dict[tuple[str, str], LinkClasses]:
        end = {name: ClassCounters(10**12, 10**9, 10**6, 0) for name in ("1:10", "1:20")}
        return {(host, "snic"): LinkClasses(end, end) for host in self.hosts}

    def marks(self) -> list[Any]:
        return []


class Served:
    """A control socket and its cluster's name; `call` asks from another thread."""

    def __init__(self, fabric: ManyLinks) -> None:
        self.name = f"unit-{uuid.uuid4().hex[:12]}"
        self.fabric = fabric
        self.listener = names.claim(self.name)
        about = About(self.name, "up", "/nowhere", "rootless", 0.0, WIRES)
        self.control = Control(self.listener, about, cast(Any, fabric))

    def call(self, ask: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, Cluster(self.name))
            while not asked.done():
                if select.select([self.control], [], [], 0.01)[0]:
                    self.control.serve()
            return asked.result()

    def silent(self) -> socket.socket:
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        caller.connect(names.address(self.name))
        return caller


@pytest.fixture
def served() -> Iterator[Served]:
    found = Served(ManyLinks(3))
    yield found
    found.listener.close()


def test_the_view_of_a_large_cluster_arrives_whole() -> None:
    large = Served(ManyLinks(3000))
    with large.listener:
        view = large.call(lambda cluster: cluster.look())
    assert len(view.links) == len(view.hosts) == 3000
    assert view.links[-1].classes is not None


def test_callers_that_say_nothing_hold_nobody_up(served: Served) -> None:
    callers = []
    for _ in range(MOST_CALLERS + 3):
        callers.append(served.silent())
        served.control.serve()  # nothing here waits for a word
    assert len(served.call(lambda cluster: cluster.look()).links) == 3
    for caller in callers:
        caller.close()
    while select.select([served.control], [], [], 0)[0]:
        served.control.serve()
    assert served.control._callers == []


@pytest.mark.parametrize("words", [b"\xc1", b"", b"x" * 1000, b"\x81\xa4type\xa4gone"])
def test_what_is_no_request_is_answered_and_ends_nothing(served: Served, words: bytes) -> None:
    with served.silent() as caller:
        caller.send(words)
        served.control.serve()  # accepts
        served.control.serve()  # hears
    assert len(served.call(lambda cluster: cluster.look()).links) == 3


def test_a_fault_in_an_answer_is_told_to_who_asked_and_ends_nothing(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    served.fabric.broken = True
    with pytest.raises(RunFailed, match=f"could not carry out Look: KeyError.*logs {served.name}"):
        served.call(lambda cluster: cluster.look())
    assert "a fault of our own" in capfd.readouterr().err
    served.fabric.broken = False
    assert len(served.call(lambda cluster: cluster.look()).links) == 3
    with pytest.raises(InputError, match="nearest host: 'de1-buf'"):
        served.call(lambda cluster: cluster.enter("de1-bug"))


def test_answers_leave_no_descriptor_behind(served: Served) -> None:
    served.call(lambda cluster: cluster.look())
    gc.collect()  # what earlier tests left
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        served.call(lambda cluster: cluster.look())
        with served.call(lambda cluster: cluster.enter("lab")):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


FORK = """
import os, sys
from testbed.clusters import names
from testbed.clusters.control import handed_on, inherited_listener
claimed = names.claim(sys.argv[1])
os.environ.update(handed_on(claimed))
fd = inherited_listener().fileno()
claimed.detach()
pid = os.fork()
if pid == 0:
    os._exit(os.path.exists(f"/proc/self/fd/{fd}"))
assert os.path.exists(f"/proc/self/fd/{fd}")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_forked_processes_do_not_hold_the_control_socket() -> None:
    name = f"unit-{uuid.uuid4().hex[:12]}"
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", FORK, name], cwd=root, timeout=30)
    assert done.returncode == 0


def test_whoever_hangs_up_behind_nonsense_ends_nothing(served: Served) -> None:
    for _ in range(3):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.connect(names.address(served.name))
            caller.sendall(b"nonsense")
        for _ in range(2):  # it calls, and it has asked
            served.control.serve()
    assert len(served.call(Cluster.look).hosts) == len(served.fabric.hosts)


def test_one_that_is_dismissed_as_it_speaks_ends_nothing(served: Served) -> None:
    crowd = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(MOST_CALLERS)]
    for caller in crowd:
        caller.connect(names.address(served.name))
        served.control.serve()
    # In one look: a call that is one too many, and words of the caller whose place it takes.
    crowd[0].sendall(b"nonsense")
    crowd.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    crowd[-1].connect(names.address(served.name))
    served.control.serve()
    for caller in crowd:
        caller.close()
    assert len(served.call(Cluster.look).hosts) == len(served.fabric.hosts)

"""Stock `mn` builds our topology in private namespaces, and leaves nothing behind."""

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.errors import InputError
from testbed.fabric.addresses import NETWORKS, plan_addresses
from testbed.fabric.stock_mn import STANDINS, notes, search_path, with_defaults
from topologies import stock
from topologies.dualpath import DualPathTopo

ROOT = Path(__file__).parents[2]
MN = [sys.executable, "-m", "testbed.cli.main", "mn"]
DUALPATH = ["--custom", str(ROOT / "topologies/dualpath.py"), "--topo", "dualpath,1,2"]
PROMPT = b"mininet> "


def env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def call(*argv: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MN, *argv], input=said, capture_output=True, text=True, timeout=100, env=env(),
        check=False,
    )  # fmt: skip


def outside() -> tuple[object, ...]:
    mounts = Path("/proc/self/mountinfo").read_text()
    return socket.if_nameindex(), os.stat("/proc/self/ns/net").st_ino, mounts


@pytest.mark.usefixtures("privilege")
def test_stock_mn_builds_the_topology_and_every_host_reaches_every_other() -> None:
    before = outside()
    ended = call("--", *DUALPATH, "--test", "pingall")
    assert ended.returncode == 0
    assert "0% dropped (72/72 received)" in ended.stdout + ended.stderr
    assert outside() == before


def test_what_stands_in_is_named_and_nothing_else() -> None:
    path = search_path(os.environ["PATH"])
    *said, version = call("--", "--version").stderr.splitlines()
    assert said == notes(path, [])
    assert version.startswith("2.3")
    own = {name for name in ("mnexec", "brctl", "ifconfig", "ethtool") if not installed(name)}
    assert {line.partition(":")[0] for line in said} - {"ping"} == own


def installed(name: str) -> bool:
    folders = [*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin"]
    return any(os.path.isfile(Path(folder) / name) for folder in folders)  # or it is out of reach


def test_a_program_of_the_users_goes_before_a_stand_in(tmp_path: Path) -> None:
    own = tmp_path / "mnexec"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert not any("mnexec" in line for line in notes(search_path(str(tmp_path)), []))
    assert any("ping: missing" in line for line in notes(str(tmp_path), []))


def test_every_data_network_carries_pings_by_the_addresses_of_our_own_fabric() -> None:
    plan = plan_addresses(DualPathTopo(1, 2))
    pairs = [
        ("pe0-buf", "store0", "snic"),
        ("de0-gpu", "de1-buf", "pcie"),
        ("sched", "de0-gpu", "mgmt"),
    ]
    lines = [f"{near} ping -c1 -W5 {plan[far, nic].ip}\n" for near, far, nic in pairs]
    ended = call("--", *DUALPATH, said="".join(lines))
    assert (ended.stdout + ended.stderr).count("1 received") == len(pairs)


def test_the_topology_and_the_fabric_have_the_same_networks() -> None:
    assert {name: str(net) for name, net in stock.NETWORKS.items()} == {
        name: str(net) for name, net in NETWORKS.items()
    }
    topo, plan = DualPathTopo(2, 1, folded=False, gpus_per_node=2), {}
    for owner, _, info in topo.links(withInfo=True):
        if "params1" in info:
            plan[owner, info["nic"]] = info["params1"]["ip"]
    assert plan == {key: f"{nic.ip}/{nic.prefix_bits}" for key, nic in plan_addresses(topo).items()}


def test_mn_after_an_error_removes_no_log_of_anybody() -> None:
    log = Path(f"/tmp/{os.getpid()}-kept.log")
    log.write_text("somebody's")
    try:
        ended = call("--", "--topo", "nonsense")
        assert "Invalid topo name nonsense" in ended.stdout + ended.stderr
        assert log.read_text() == "somebody's"
    finally:
        log.unlink(missing_ok=True)


def test_clean_is_refused() -> None:
    for words in (["-c"], ["--clean"], ["--clea"], ["--topo", "minimal", "-c"]):
        with pytest.raises(InputError, match="nothing to clean"):
            with_defaults(words)
    assert call("--", "-c").returncode == 2


def test_what_the_user_chose_is_left_alone() -> None:
    assert with_defaults([])[:3] == [
        "--switch=lxbr", "--controller=none", "--ipbase=198.18.0.0/15"
    ]  # fmt: skip
    chosen = ["--switch", "user", "--cont=ref", "-i10.0.0.0/8"]
    assert with_defaults(chosen) == chosen
    assert with_defaults(["--innamespace"])[-1] == "--innamespace"
    assert len(with_defaults(["--innamespace"])) == 4


def test_mnexec_refuses_the_machines_own_network() -> None:
    ended = subprocess.run(
        [STANDINS / "mnexec", "-cdn", "true"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "never in the machine's own network" in ended.stderr


SCRIPT = r"""
set -eu
PATH="$1:$PATH"
brctl addbr br9; ifconfig br9 up
ip link add left type veth peer name right
brctl addif br9 left; ifconfig left up
brctl showstp br9 | grep -c left
ifconfig right hw ether 02:00:00:00:00:77; ifconfig right 198.18.0.9/17 up
ifconfig right
ifconfig right 198.18.0.8 netmask 255.255.128.0
ifconfig right | grep -c 198.18.0
ethtool -K right gso off; ip -d link show right | grep -o 'gso_max_segs 1 '
mnexec -n sleep 60 & child=$!
until mnexec -a $child ip link 2>/dev/null | grep -q lo; do :; done
inside=$(mnexec -a $child stat -Lc %i /proc/self/ns/net)
while [ "$inside" = "$(stat -Lc %i /proc/self/ns/net)" ]; do
    inside=$(mnexec -a $child stat -Lc %i /proc/self/ns/net)
done
mnexec -a $child sh -c 'ip -br link; pwd'
kill $child
exec 7</dev/null
mnexec -c sh -c 'ls /proc/self/fd | tr "\n" " "'; echo
brctl delif br9 left; ifconfig br9 down; brctl delbr br9; brctl show | wc -l
mnexec -a 999999 true && exit 1
ifconfig right nonsense && exit 1
brctl nonsense && exit 1
echo done
"""


@pytest.mark.usefixtures("privilege")
def test_the_stand_ins_do_what_mininet_asks_of_them(tmp_path: Path) -> None:
    from testbed.fabric.private import start_private

    command = [sys.executable, "-m", "testbed.fabric.stock_mn", "bash", "-c", SCRIPT, "script"]
    # First on PATH: also those that are installed here are tried.
    with start_private(
        [*command, str(STANDINS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env()
    ) as process:
        out, err = process.popen.communicate(timeout=60)
    lines = out.decode().splitlines()
    assert lines[-1] == "done", err.decode()
    text = out.decode()
    assert re.search(r"link/ether 02:00:00:00:00:77", text)
    assert "inet 198.18.0.9/17" in text
    assert "gso_max_segs 1 " in text
    assert "right" not in text[text.index("gso_max_segs") :].split(os.getcwd())[0]
    assert "0 1 2 3 " in lines  # ls has its own
    assert lines[-2] == "0"


# With a terminal, as users have it.


class Terminal:
    """A testbed mn on a terminal of its own."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid, self.fd = pid, fd
        self.text = b""

    def until(self, word: bytes, timeout_s: float = 40.0) -> None:
        deadline = time.monotonic() + timeout_s
        while word not in self.text:
            ready, _, _ = select.select([self.fd], [], [], deadline - time.monotonic())
            assert ready, self.text[-2000:]
            self.text += os.read(self.fd, 65536)
        self.text = self.text.partition(word)[2]

    def type(self, words: bytes) -> None:
        os.write(self.fd, words)


@contextmanager
def terminal(*argv: str) -> Iterator[Terminal]:
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(MN[0], [*MN, *argv], env())
    try:
        yield Terminal(pid, fd)
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(fd)


def below(pid: int) -> set[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = {int(child) for child in children.read_text().split()}
    except OSError:
        return set()
    return found.union(*(below(child) for child in found))


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def eventually(true: Callable[[], bool], within_s: float = 2.0) -> bool:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_ctrl_c_ends_a_hosts_command_and_the_command_line_goes_on() -> None:
    with terminal("--", "--topo", "minimal") as mn:
        mn.until(PROMPT)
        mn.type(b"h1 ping h2\n")
        mn.until(b"icmp_seq=2")
        mn.type(b"\x03")
        mn.until(b"packets transmitted")
        mn.until(PROMPT)
        mn.type(b"h1 ping -c1 h2\n")
        mn.until(b"1 received")
        mn.until(PROMPT)
        mn.type(b"exit\n")
        mn.until(b"completed in")
        assert os.waitpid(mn.pid, 0)[1] == 0


@pytest.mark.usefixtures("privilege")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_however_it_ends_no_process_and_no_namespace_is_left(how: signal.Signals) -> None:
    before = outside()
    with terminal("--", *DUALPATH) as mn:
        mn.until(PROMPT)
        family = below(mn.pid)
        assert len(family) > 15  # unshare, PID 1, mn, and a shell for each node
        os.kill(mn.pid, how)
        os.waitpid(mn.pid, 0)
        assert eventually(lambda: not any(map(alive, family)))
    assert outside() == before


def test_in_the_shell_mn_is_at_hand() -> None:
    said = "mn --topo minimal --test pingpair\nip -br link\n"
    ended = call("--shell", said=said)
    assert "0% dropped (2/2 received)" in ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("lo ")


SUDO = """
import ctypes, subprocess, sys
ctypes.CDLL(None).prctl(15, b"sudo", 0, 0, 0)  # PR_SET_NAME: what the kernel calls this process
subprocess.run(sys.argv[1:])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="sudo mode needs root")
def test_when_sudo_itself_is_killed_nothing_is_left() -> None:
    command = [sys.executable, "-c", SUDO, *MN, "--", *DUALPATH]
    with subprocess.Popen(
        command, env=env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as sudo:
        assert sudo.stdout is not None
        text = b""
        while PROMPT not in text:
            text += os.read(sudo.stdout.fileno(), 65536)
        family = below(sudo.pid)
        assert len(family) > 15
        sudo.kill()
        assert eventually(lambda: not any(map(alive, family)))

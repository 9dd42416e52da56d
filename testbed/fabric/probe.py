"""What this machine can do, found by trying it in a throw-away private namespace.

`python -m testbed.fabric.probe [--json]`: one row per primitive; exit code 4 if one is missing.
"""

import importlib
import importlib.metadata
import mmap
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from testbed.errors import EnvironmentUnfit
from testbed.fabric import netlink
from testbed.fabric.namespaces import create, current_inode, joined, require_private
from testbed.fabric.private import hold_lifeline, private_command, start_private
from testbed.fabric.shaping import shape

MIB = 1 << 20
INSIDE_TIMEOUT_S = 20.0
INSIDE_COMMAND = [sys.executable, "-m", "testbed.fabric.probe", "--inside"]
Status = Literal["ok", "degraded", "missing"]


class Finding(msgspec.Struct, frozen=True):
    """One primitive: what was found, and the command or sentence that mends it (empty if ok)."""

    name: str
    status: Status
    detail: str
    fix: str = ""


class Check(NamedTuple):
    """A trial: returns what it saw, raises OSError, EnvironmentUnfit or ImportError if refused."""

    name: str
    trial: Callable[[], str]
    fix: str
    refused: Status = "missing"


def run_check(check: Check) -> Finding:
    """Try it; whatever it raises becomes the row's detail."""
    try:
        return Finding(check.name, "ok", check.trial())
    except (OSError, EnvironmentUnfit, ImportError) as refusal:
        detail = str(refusal).removesuffix("; run `testbed doctor`")
        return Finding(check.name, check.refused, detail, check.fix)


# Inside: PID 1 of private namespaces.

BRIDGE_INDEX, PORT_INDEX, NIC_INDEX = 10, 11, 2


class _Bench:
    """One namespace, one bridge and one veth pair to try things on, each made by its own check."""

    def __init__(self) -> None:
        self.netns_fd = -1
        self.lab: netlink.Rtnetlink | None = None

    def _send(self, requests: list[netlink.Request]) -> None:
        if self.lab is None:
            self.lab = netlink.Rtnetlink()
        self.lab.send(requests)

    def netns(self) -> str:
        self.netns_fd = create()
        return f"inode {os.fstat(self.netns_fd).st_ino}"

    def setns(self) -> str:
        home = current_inode()
        with joined(self.netns_fd):
            inside = current_inode()
        if inside == home:
            raise OSError("setns had no effect")
        return "joined and left"

    def bridge(self) -> str:
        self._send([netlink.bridge("probe-sw", BRIDGE_INDEX)])
        return "created, spanning tree and snooping off"

    def veth(self) -> str:
        port = netlink.VethEnd("probe-port", PORT_INDEX, master=BRIDGE_INDEX)
        nic = netlink.VethEnd("probe-nic", NIC_INDEX, "02:00:00:00:00:01", self.netns_fd)
        self._send([netlink.veth(port, nic), netlink.quiet_port(port.name, port.index, False)])
        return "created across namespaces, on the bridge"

    def _shape(self, first: int, last: int) -> str:
        self._send(shape("probe-port", PORT_INDEX, 1e8, True, None)[first:last])
        return "accepted on a veth"

    def htb(self) -> str:
        return self._shape(0, 4)

    def bfifo(self) -> str:
        return self._shape(4, 5)

    def pfifo(self) -> str:
        return self._shape(5, 6)

    def u32(self) -> str:
        return self._shape(6, 8)


def _proc() -> str:
    if os.readlink("/proc/self") != str(os.getpid()):
        raise OSError("/proc shows another PID namespace")
    return "shows the private PID namespace"


def _ip_tos() -> str:
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)
        return f"TOS {sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS):#x}"


def _cubic() -> str:
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    return "pinned per socket"


def _populate() -> str:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    with mmap.mmap(-1, 64 * MIB, flags=flags):
        return "64 MiB pre-faulted"


def _module(name: str) -> str:
    return f"enable {name} in the kernel (sudo modprobe {name}), or use a kernel that has it"


def _inside_checks() -> list[Check]:
    bench = _Bench()
    return [
        Check("proc mount", _proc, "let containers mount /proc (for example docker --privileged)"),
        Check("network namespace", bench.netns, "use a kernel with CONFIG_NET_NS"),
        Check("setns", bench.setns, "let containers call setns (seccomp=unconfined)"),
        Check("bridge", bench.bridge, _module("bridge")),
        Check("veth", bench.veth, _module("veth")),
        Check("htb", bench.htb, _module("sch_htb")),
        Check("bfifo", bench.bfifo, "use a kernel with CONFIG_NET_SCH_FIFO"),
        Check("pfifo", bench.pfifo, "use a kernel with CONFIG_NET_SCH_FIFO"),
        Check("u32", bench.u32, _module("cls_u32")),
        Check("ip tos", _ip_tos, "allow setsockopt(IP_TOS) in the sandbox this runs in"),
        Check("tcp cubic", _cubic, _module("tcp_cubic")),
        Check("map populate", _populate, "free memory; MAP_POPULATE needs 64 MiB", "degraded"),
    ]


def _inside() -> None:
    hold_lifeline()
    require_private()
    findings = [run_check(check) for check in _inside_checks()]
    sys.stdout.write(msgspec.json.encode(findings).decode())


# Outside: the machine as it is.


def _sysctl(name: str) -> str | None:
    path = Path("/proc/sys") / name.replace(".", "/")
    return path.read_text().strip() if path.exists() else None


def user_namespace_fix(sysctl: Callable[[str], str | None] = _sysctl) -> str:
    """Why user namespaces may be refused here, and what to do about it."""
    instead = "or run the same command under sudo (it uses the same private namespaces)"
    if sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1":
        return (
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, "
            "or give /usr/bin/unshare an AppArmor profile with the rule `userns,`, " + instead
        )
    if sysctl("kernel.unprivileged_userns_clone") == "0":
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1, " + instead
    if sysctl("user.max_user_namespaces") == "0":
        return "sudo sysctl -w user.max_user_namespaces=10000, " + instead
    return "in a container, start it with --privileged or seccomp=unconfined; " + instead


def _imported(name: str) -> Check:
    def trial() -> str:
        importlib.import_module(name)
        return importlib.metadata.version(name)

    return Check(f"import {name}", trial, f"pip install -e . (it lists {name})")


def _mininet() -> str:
    importlib.import_module("testbed.fabric.nodes")
    return importlib.metadata.version("mininet")


def _level(name: str, found: float, unit: str, good: float, least: float, fix: str) -> Finding:
    status: Status = "ok" if found >= good else "degraded" if found >= least else "missing"
    return Finding(name, status, f"{found:g} {unit}", "" if status == "ok" else fix)


def _available_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def _resources() -> list[Finding]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files == resource.RLIM_INFINITY:
        files = 1 << 20
    disk_mib = shutil.disk_usage(Path.cwd()).free // MIB
    cores = len(os.sched_getaffinity(0))
    return [
        _level("open files", files, "at most", 4096, 512, "ulimit -Hn 65536, in the login shell"),
        _level("memory", _available_mib(), "MiB free", 4096, 1024, "close programs; 4 GiB is good"),
        _level("disk", disk_mib, "MiB free", 4096, 512, "free space in this folder's file system"),
        _level("cores", cores, "usable", 2, 1, "use a machine with two or more cores"),
    ]


def _collect_inside(popen: "subprocess.Popen[bytes]") -> list[Finding]:
    try:
        out, err = popen.communicate(timeout=INSIDE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        out, err = b"", b"no answer within 20 s"
    if popen.returncode == 0:
        ok = Finding("user namespace", "ok", "user, net, mount and PID namespaces as uid 0")
        return [ok, *msgspec.json.decode(out, type=list[Finding])]
    lines = err.decode(errors="replace").strip().splitlines()
    detail = lines[-1] if lines else f"exit code {popen.returncode}"
    ours = f"run `{' '.join(private_command(INSIDE_COMMAND))}` to see all it says"
    fix = user_namespace_fix() if detail.startswith("unshare:") else ours
    return [Finding("user namespace", "missing", detail, fix)]


def probe() -> list[Finding]:
    """Try everything; takes about 2 s, most of it the import of torch.

    Never raises for what the machine lacks: that is a row with status "missing".
    """
    checks = [
        Check("import mininet", _mininet, "pip install -e . (it lists mininet==2.3.0.dev6)"),
        *(_imported(name) for name in ("pyroute2", "lmdb", "torch")),
    ]
    # The child must find this package too, however the parent was told of it.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        process = start_private(
            INSIDE_COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
    except EnvironmentUnfit as refusal:
        inside = [Finding("user namespace", "missing", str(refusal), "apt install util-linux")]
        imports = [run_check(check) for check in checks]
    else:
        with process:
            imports = [run_check(check) for check in checks]
            inside = _collect_inside(process.popen)
    return [*inside, *imports, *_resources()]


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    if argv == ["--inside"]:
        _inside()
        return 0
    findings = probe()
    if "--json" in argv:
        sys.stdout.write(msgspec.json.encode(findings).decode() + "\n")
    else:
        for row in findings:
            fix = f"  fix: {row.fix}" if row.fix else ""
            sys.stdout.write(f"{row.status:8}  {row.name:18}  {row.detail}{fix}\n")
    return 4 if any(row.status == "missing" for row in findings) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

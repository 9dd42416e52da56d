"""PID 1 of private namespaces: tries the kernel's primitives there, and says so as JSON."""

import errno
import importlib.metadata
import mmap
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from testbed.errors import EnvironmentUnfit
from testbed.fabric.findings import Check, Finding, run_check
from testbed.fabric.namespaces import create, current_inode, joined, require_private
from testbed.fabric.private import hold_lifeline
from testbed.fabric.privilege import mode

if TYPE_CHECKING:
    from testbed.fabric import netlink

MIB = 1 << 20
SYSTEM_PATH = ":/usr/sbin:/sbin"  # not on an ordinary user's PATH
BRIDGE_INDEX, PORT_INDEX, NIC_INDEX, IFB_INDEX = 10, 11, 2, 12
ROCE_PORT = 4791
RXE_TIMEOUT_S = 1.0
NETLINK_NETFILTER = 12
NFT_BEGIN, NFT_NEWTABLE, NFT_END = 0x10, 10 << 8, 0x11
NLM_REQUEST, NLM_ACK, NLM_CREATE = 0x1, 0x4, 0x400


class Bench:
    """One namespace, one bridge and one veth pair to try things on, each made by its own check."""

    def __init__(self) -> None:
        self.netns_fd = -1
        self.lab: netlink.Rtnetlink | None = None

    def _send(self, requests: "list[netlink.Request]") -> None:
        from testbed.fabric import netlink

        if self.lab is None:
            self.lab = netlink.Rtnetlink()
        self.lab.send(requests)

    def _send_optional(self, kind: str, message: bytes) -> None:
        from testbed.fabric import netlink

        try:
            self._send([netlink.Request(f"make a {kind}", message)])
        except EnvironmentUnfit as refusal:
            known = (os.strerror(errno.ENOENT), os.strerror(errno.EOPNOTSUPP))
            if any(word in str(refusal) for word in known):
                raise OSError("not in this kernel") from refusal
            raise

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
        from testbed.fabric import netlink

        self._send([netlink.bridge("probe-sw", BRIDGE_INDEX)])
        return "created, spanning tree and snooping off"

    def veth(self) -> str:
        from testbed.fabric import netlink

        port = netlink.VethEnd("probe-port", PORT_INDEX, master=BRIDGE_INDEX)
        nic = netlink.VethEnd("probe-nic", NIC_INDEX, "02:00:00:00:00:01", self.netns_fd)
        self._send([netlink.veth(port, nic), netlink.quiet_port(port.name, port.index, False)])
        return "created across namespaces, on the bridge"

    def _shape(self, first: int, last: int) -> str:
        from testbed.fabric.shaping import shape

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

    def ifb(self) -> str:
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

        from testbed.fabric import netlink

        attrs = [
            ("IFLA_IFNAME", "probe-ifb"),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "ifb")]}),
        ]
        message = netlink.encode(
            ifinfmsg, netlink.RTM_NEWLINK, netlink.CREATE, {"index": IFB_INDEX}, attrs
        )
        self._send_optional("ifb", message)
        return "created"

    def netem(self) -> str:
        from pyroute2.netlink.rtnl.tcmsg import sched_netem, tcmsg

        from testbed.fabric import netlink

        options = sched_netem.get_parameters({"delay": 1000, "limit": 1000})
        fields = {"handle": 0x70000, "parent": 0xFFFFFFFF, "index": BRIDGE_INDEX}
        attrs = [("TCA_KIND", "netem"), ("TCA_OPTIONS", options)]
        message = netlink.encode(tcmsg, netlink.RTM_NEWQDISC, netlink.CREATE, fields, attrs)
        self._send_optional("netem", message)
        return "accepted on a bridge"


def _nft_message(kind: int, flags: int, family: int, resource: int, body: bytes = b"") -> bytes:
    data = struct.pack("=BBH", family, 0, socket.htons(resource)) + body
    return struct.pack("=IHHII", 16 + len(data), kind, flags, kind, 0) + data


def nft() -> str:
    """Make a table of nf_tables, in one batch; raises OSError if the kernel refuses."""
    name = b"probe\0\0\0"  # an attribute's length does not count what fills up its last word
    table = struct.pack("=HH", 4 + len("probe\0"), 1) + name
    batch = _nft_message(NFT_BEGIN, NLM_REQUEST, 0, 10)
    batch += _nft_message(NFT_NEWTABLE, NLM_REQUEST | NLM_ACK | NLM_CREATE, 1, 0, table)
    batch += _nft_message(NFT_END, NLM_REQUEST, 0, 10)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.bind((0, 0))
        sock.settimeout(1.0)
        sock.send(batch)
        refusal = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
    if refusal:
        raise OSError(f"no table could be made: {os.strerror(refusal)}")
    if shutil.which("nft", path=os.environ.get("PATH", "") + SYSTEM_PATH) is None:
        raise OSError("in the kernel, but the program nft is missing")
    return "a table made"


def _packet_socket() -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
        sock.bind(("lo", 0))
    return "bound to an interface"


def roce_sockets() -> int:
    """UDP sockets of this network namespace on RoCE's port; a working rxe link has two."""
    files = [Path(f"/proc/thread-self/net/{name}") for name in ("udp", "udp6")]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()[1:]]
    return sum(line.split()[1].endswith(f":{ROCE_PORT:04X}") for line in lines)


def _rdma(*words: str) -> None:
    done = subprocess.run(
        ["rdma", "link", *words], capture_output=True, text=True, timeout=RXE_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise OSError(f"rdma link {words[0]} refused: {said}")


def rxe(netns_fd: int) -> str:
    """Add an rxe link in a throw-away namespace and look for its sockets there.

    That the link can be added proves nothing. Names of rxe links are the machine's, so it is
    unique, and goes again. Loads no module.
    """
    if not Path("/sys/module/rdma_rxe").exists():
        raise OSError("rdma_rxe is not loaded")
    if mode() != "sudo":
        raise OSError("rdma_rxe is loaded; only root may add its links")
    if shutil.which("rdma", path=os.environ.get("PATH", "") + SYSTEM_PATH) is None:
        raise OSError("rdma_rxe is loaded, but the program rdma is missing")
    name = f"probe{os.stat('/proc/self/ns/pid').st_ino}"
    with joined(netns_fd):
        try:
            _rdma("add", name, "type", "rxe", "netdev", "probe-nic")
        except subprocess.TimeoutExpired as late:
            raise OSError("rdma link add gave no answer") from late
        try:
            found = roce_sockets()
        finally:
            _rdma("delete", name)
    if found == 0:
        raise OSError("a link was added, but has no socket in its namespace (older than Linux 7)")
    return f"{found} sockets on port {ROCE_PORT} in the namespace"


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
    with mmap.mmap(-1, 16 * MIB, flags=flags):
        return "16 MiB pre-faulted"


def _pyroute2() -> str:
    from testbed.fabric import netlink, shaping  # noqa: F401

    return importlib.metadata.version("pyroute2")


def _module(name: str) -> str:
    return f"sudo modprobe {name} (or a kernel that has it)"


def _needed(bench: Bench) -> list[Check]:
    fifo = "use a kernel with CONFIG_NET_SCH_FIFO"
    return [
        Check("proc mount", _proc, "let containers mount /proc (docker run --privileged)"),
        Check("netns", bench.netns, "use a kernel with CONFIG_NET_NS"),
        Check("setns", bench.setns, "let containers call setns (seccomp=unconfined)"),
        Check("ip tos", _ip_tos, "allow setsockopt(IP_TOS) in the sandbox this runs in"),
        Check("tcp cubic", _cubic, _module("tcp_cubic")),
        Check("map populate", _populate, "free 16 MiB of memory and ask again"),
        Check("pyroute2", _pyroute2, "pip install '.[emulated]' in the project's folder"),
        Check("bridge", bench.bridge, _module("bridge")),
        Check("veth", bench.veth, _module("veth")),
        Check("htb", bench.htb, _module("sch_htb")),
        Check("bfifo", bench.bfifo, fifo),
        Check("pfifo", bench.pfifo, fifo),
        Check("u32", bench.u32, _module("cls_u32")),
    ]


def _helpful(bench: Bench) -> list[Check]:
    return [
        Check("ifb", bench.ifb, _module("ifb"), "links are shaped where they are sent"),
        Check("nft", nft, "sudo apt install nftables", "u32 filters mark by port"),
        Check("netem", bench.netem, _module("sch_netem"), "delay by due time in the transport"),
        Check(
            "packet socket", _packet_socket, "use a kernel with CONFIG_PACKET",
            "no capture; counters per class remain",
        ),
        Check(
            "rxe", lambda: rxe(bench.netns_fd), _module("rdma_rxe"), "the TCP transport alone",
        ),
    ]  # fmt: skip


def try_all() -> list[Finding]:
    """Every primitive of the kernel; to be called by PID 1 of private namespaces."""
    bench = Bench()
    return [run_check(check) for check in (*_needed(bench), *_helpful(bench))]


def main() -> None:
    """Refuses to try anything anywhere but in private namespaces."""
    hold_lifeline()
    require_private()
    sys.stdout.write(msgspec.json.encode(try_all()).decode())


if __name__ == "__main__":
    main()

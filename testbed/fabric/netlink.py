"""Rtnetlink in batches: pyroute2's messages, one plain socket per namespace.

pyroute2's own sockets cost about 2 ms a call; a fabric needs thousands of requests. Requests are
encoded by pyroute2's message classes and sent many at a time.
"""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from testbed.errors import EnvironmentUnfit
from testbed.fabric.namespaces import joined, require_not_the_machine

RTM_NEWLINK, RTM_SETLINK, RTM_NEWADDR, RTM_NEWNEIGH = 16, 19, 20, 28
RTM_NEWQDISC, RTM_NEWTCLASS, RTM_GETTCLASS, RTM_NEWTFILTER = 36, 40, 42, 44
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
CREATE = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
REPLACE = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
IFF_UP = 1
NLMSG_ERROR, NLMSG_DONE = 2, 3
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_MASTER = 4
NDA_DST, NDA_LLADDR = 1, 2
IFLA_PROTINFO, NLA_F_NESTED = 12, 0x8000
BRPORT_LEARNING, BRPORT_UNICAST_FLOOD = 8, 9
SIOCETHTOOL, ETHTOOL_GLINK = 0x8946, 0xA
_HEADER = struct.Struct("=IHHII")
_NEIGHBOUR = struct.Struct("=IHHIIBxxxiHBxHH4sHH6sxx")
_FDB = struct.Struct("=IHHIIBxxxiHBxHH6sxx")
_BRPORT = struct.Struct("=IHHIIBxxxiII HHHHBxxxHHBxxx")
_BATCH = 100  # its answers fit into the default receive buffer


class Request(NamedTuple):
    """One encoded request and what it is for, in words for an error message."""

    what: str
    data: bytes


def encode(
    cls: type[Any], kind: int, flags: int, fields: dict[str, Any], attrs: list[Any]
) -> bytes:
    """A netlink message of a pyroute2 class, without sequence number."""
    message = cls()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message.encode()
    return bytes(message.data)


def bridge(name: str, index: int) -> Request:
    """Create a bridge, up, without spanning tree and multicast snooping."""
    options = {"attrs": [("IFLA_BR_STP_STATE", 0), ("IFLA_BR_MCAST_SNOOPING", 0)]}
    kind = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", options)]}
    attrs = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", kind)]
    fields = {"index": index, "flags": IFF_UP, "change": IFF_UP}
    return Request(f"create bridge {name}", encode(ifinfmsg, RTM_NEWLINK, CREATE, fields, attrs))


class VethEnd(msgspec.Struct, frozen=True):
    """One end of a veth pair; it stays in the lab without a namespace fd. Only `end` of `veth`
    may have a master, the index of a bridge."""

    name: str
    index: int
    mac: str | None = None
    netns_fd: int | None = None
    master: int | None = None


def _veth_attrs(end: VethEnd) -> list[Any]:
    attrs: list[Any] = [("IFLA_IFNAME", end.name)]
    if end.mac is not None:
        attrs.append(("IFLA_ADDRESS", end.mac))
    if end.netns_fd is not None:
        attrs.append(("IFLA_NET_NS_FD", end.netns_fd))
    if end.master is not None:
        attrs.append(("IFLA_MASTER", end.master))
    return attrs


def veth(end: VethEnd, peer: VethEnd) -> Request:
    """Create a veth pair, `end` up and `peer` down: the kernel opens no veth before its pair."""
    up = {"flags": IFF_UP, "change": IFF_UP}
    peer_data = {"index": peer.index, "attrs": _veth_attrs(peer)}
    data = {"attrs": [("VETH_INFO_PEER", peer_data)]}
    kind = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
    attrs = [*_veth_attrs(end), ("IFLA_LINKINFO", kind)]
    message = encode(ifinfmsg, RTM_NEWLINK, CREATE, {"index": end.index, **up}, attrs)
    return Request(f"create link {end.name} - {peer.name}", message)


def enslave(name: str, index: int, master: int) -> Request:
    """Put an interface on a bridge."""
    fields = {"index": index}
    message = encode(ifinfmsg, RTM_NEWLINK, NLM_F_REQUEST, fields, [("IFLA_MASTER", master)])
    return Request(f"put {name} on its bridge", message)


def quiet_port(name: str, index: int, flood: bool) -> Request:
    """A bridge port that learns nothing and is flooded only if it leads to unlisted hosts."""
    # By hand: pyroute2 leaves out the nested flag, without which the kernel reads an old format.
    message = _BRPORT.pack(
        _BRPORT.size, RTM_SETLINK, NLM_F_REQUEST, 0, 0, socket.AF_BRIDGE, index, 0, 0,
        20, IFLA_PROTINFO | NLA_F_NESTED, 5, BRPORT_LEARNING, 0, 5, BRPORT_UNICAST_FLOOD, flood,
    )  # fmt: skip
    return Request(f"set bridge port {name}", message)


def link_up(name: str, index: int) -> Request:
    """Set an interface up."""
    fields = {"index": index, "flags": IFF_UP, "change": IFF_UP}
    return Request(f"set {name} up", encode(ifinfmsg, RTM_NEWLINK, NLM_F_REQUEST, fields, []))


def address(index: int, ip: str, prefix_bits: int) -> Request:
    """Give an interface an IPv4 address."""
    fields = {"family": socket.AF_INET, "prefixlen": prefix_bits, "index": index}
    attrs = [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip)]
    return Request(f"add address {ip}", encode(ifaddrmsg, RTM_NEWADDR, CREATE, fields, attrs))


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def neighbour(index: int, ip: str, mac: str) -> Request:
    """A permanent ARP entry; packed by hand because a cluster has one for every pair."""
    message = _NEIGHBOUR.pack(
        _NEIGHBOUR.size, RTM_NEWNEIGH, REPLACE, 0, 0,
        socket.AF_INET, index, NUD_PERMANENT, 0,
        8, NDA_DST, socket.inet_aton(ip), 10, NDA_LLADDR, _mac_bytes(mac),
    )  # fmt: skip
    return Request(f"add neighbour {ip}", message)


def forwarding(index: int, mac: str) -> Request:
    """A static entry of a bridge's forwarding table: this MAC lies behind this port."""
    message = _FDB.pack(
        _FDB.size, RTM_NEWNEIGH, REPLACE, 0, 0,
        socket.AF_BRIDGE, index, NUD_NOARP, NTF_MASTER, 10, NDA_LLADDR, _mac_bytes(mac),
    )  # fmt: skip
    return Request(f"add forwarding entry {mac}", message)


def settle_link(name: str) -> bool:
    """Have the kernel finish an interface's change of carrier now; returns whether it has one.

    A bridge port forwards only from then on; the kernel would get
    to it on its own, up to a second later (linkwatch; ethtool's "get link" runs it at once).
    """
    buffer = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_GLINK, 0), 8)
    request = struct.pack("16sP16x", name.encode(), ctypes.addressof(buffer))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, request)
    return bool(struct.unpack("=II", buffer.raw)[1])


class Rtnetlink:
    """A request socket inside one namespace; it stays there whoever uses it."""

    def __init__(self, netns_fd: int | None = None) -> None:
        if netns_fd is None:
            require_not_the_machine()
            self._socket = self._open()
        else:
            with joined(netns_fd):
                self._socket = self._open()

    @staticmethod
    def _open() -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        sock.bind((0, 0))
        sock.settimeout(10.0)
        return sock

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def send(self, requests: Iterable[Request]) -> None:
        """Carry out requests in order; raises EnvironmentUnfit naming the first refused one."""
        pending = iter(requests)
        while chunk := list(islice(pending, _BATCH)):
            buffer = bytearray()
            for number, request in enumerate(chunk):
                start = len(buffer)
                buffer += request.data
                flags = struct.unpack_from("=H", request.data, 6)[0]
                if number == len(chunk) - 1:
                    flags |= NLM_F_ACK
                struct.pack_into("=HI", buffer, start + 6, flags, number)
            self._socket.send(buffer)
            self._collect(chunk)

    def _collect(self, chunk: list[Request]) -> None:
        failed: str | None = None
        while True:
            for kind, sequence, body in self._receive():
                if kind != NLMSG_ERROR:
                    continue
                errno = -struct.unpack_from("=i", body)[0]
                if errno and failed is None:
                    failed = f"could not {chunk[sequence].what}: {os.strerror(errno)}"
                if sequence == len(chunk) - 1:
                    if failed is not None:
                        raise EnvironmentUnfit(f"{failed}; run `testbed doctor`")
                    return

    def _receive(self) -> Iterator[tuple[int, int, memoryview]]:
        data = memoryview(self._socket.recv(1 << 18))
        while len(data) >= _HEADER.size:
            length, kind, _, sequence, _ = _HEADER.unpack_from(data)
            yield kind, sequence, data[_HEADER.size : length]
            data = data[(length + 3) & ~3 :]

    def dump_classes(self, index: int) -> list[memoryview]:
        """The bodies (struct tcmsg and attributes) of an interface's traffic classes."""
        request = _HEADER.pack(36, RTM_GETTCLASS, NLM_F_REQUEST | NLM_F_DUMP, 0, 0)
        self._socket.send(request + struct.pack("=BxxxiIII", 0, index, 0, 0, 0))
        found: list[memoryview] = []
        while True:
            for kind, _, body in self._receive():
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    errno = -struct.unpack_from("=i", body)[0]
                    raise EnvironmentUnfit(f"could not list classes: {os.strerror(errno)}")
                found.append(body)

"""Which packets go to the MODEL class of a shaped interface: u32 filters by DSCP and by port."""

import socket
from functools import lru_cache
from socket import htons

from pyroute2.netlink.rtnl.tcmsg import cls_u32, tcmsg

from engines.seams.transport import DSCP, TrafficClass
from testbed.fabric.netlink import (
    CREATE,
    NLM_F_REQUEST,
    RTM_DELTFILTER,
    RTM_NEWTFILTER,
    encode,
)

HTB = 0x10000
# Control shares the queue of collectives: both are small, and neither may wait for KV.
DSCP_OF_MODEL = (DSCP[TrafficClass.MODEL], DSCP[TrafficClass.CTRL])
PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_IPV4 = 0x0800
_DSCP_PRIORITY, _PORT_PRIORITY = 2, 1  # the lower number is asked first
# Offsets in an IPv4 header without options, and of the ports behind it.
_TOS_BYTE, _PROTOCOL_BYTE, _SOURCE_BYTE, _PORT_BYTES = 1, 9, 12, (20, 22)

# Without priority, protocol and kind it removes all filters, and none are no error.
FLUSH = encode(tcmsg, RTM_DELTFILTER, NLM_F_REQUEST, {"parent": HTB}, [])


def _filter(target: int, priority: int, keys: list[str]) -> bytes:
    fields = {"parent": HTB, "info": htons(_IPV4) | (priority << 16)}
    options = cls_u32.get_parameters({"target": target, "keys": keys})
    attrs = [("TCA_KIND", "u32"), ("TCA_OPTIONS", options)]
    return encode(tcmsg, RTM_NEWTFILTER, CREATE, fields, attrs)


@lru_cache(maxsize=8)
def by_dscp(target: int) -> tuple[bytes, ...]:
    """Messages: packets marked EF or CS6 go to the target class."""
    keys = [f"{dscp << 2:#x}/0xfc+{_TOS_BYTE}" for dscp in DSCP_OF_MODEL]
    return tuple(_filter(target, _DSCP_PRIORITY, [key]) for key in keys)


@lru_cache(maxsize=256)
def by_port(target: int, proto: str, port: int, source_ip: str | None) -> tuple[bytes, ...]:
    """Messages: packets from or to a TCP or UDP port go to the target class, marked or not.

    With `source_ip` only those that this address sent.
    """
    common = [f"{PROTOCOLS[proto]:#x}/0xff+{_PROTOCOL_BYTE}"]
    if source_ip is not None:
        packed = int.from_bytes(socket.inet_aton(source_ip), "big")
        common.append(f"{packed:#x}/0xffffffff+{_SOURCE_BYTE}")
    return tuple(
        _filter(target, _PORT_PRIORITY, [*common, f"{port:#x}/0xffff+{offset}"])
        for offset in _PORT_BYTES
    )

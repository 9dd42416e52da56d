"""From a packet to its TCP segment: who, which mark, which bytes, and what the shaper counts."""

import struct
from functools import lru_cache
from ipaddress import IPv4Address
from typing import NamedTuple

from testbed.capture.reader import Packet

MTU = 1500
ETHERNET_BYTES = 14
UNMARKED = 0
_IPV4, _TCP = 0x0800, 6
SYN, ACK = 0x02, 0x10
_HEADERS = struct.Struct("!12xHBBHHHBB2xII")  # Ethernet's type, IPv4 without its options
_TCP_HEADER = struct.Struct("!HHIIBB")


class Flow(NamedTuple):
    """One direction of a connection."""

    source: str
    source_port: int
    target: str
    target_port: int

    def back(self) -> "Flow":
        """The other direction."""
        return Flow(self.target, self.target_port, self.source, self.source_port)

    def __str__(self) -> str:
        return f"{self.source}:{self.source_port} > {self.target}:{self.target_port}"


class Tcp(NamedTuple):
    """A segment's place in its flow; `data` is what the file has of `payload_bytes`."""

    flow: Flow
    sequence: int
    acknowledged: int
    flags: int
    payload_bytes: int
    data: memoryview


class Seen(NamedTuple):
    """A packet as links count it: headers of each segment that an offloaded packet stands for."""

    at_ns: int
    outgoing: bool | None
    dscp: int
    wire_bytes: int
    wire_packets: int
    tcp: Tcp | None


@lru_cache(maxsize=4096)
def _address(number: int) -> str:
    return str(IPv4Address(number))


def look(packet: Packet) -> Seen:
    """What a packet is; whatever is no IPv4 TCP, or lacks headers, counts but has no `tcp`."""
    at_ns, outgoing, length, data = packet
    bare = Seen(at_ns, outgoing, UNMARKED, length, 1, None)
    if len(data) < _HEADERS.size:
        return bare
    kind, version, tos, total, _, fragment, _, protocol, source, target = _HEADERS.unpack_from(data)
    if kind != _IPV4 or version >> 4 != 4:
        return bare
    dscp = tos >> 2
    bare = bare._replace(dscp=dscp)
    at = ETHERNET_BYTES + (version & 15) * 4
    if protocol != _TCP or fragment & 0x1FFF or len(data) < at + 20:
        return bare
    source_port, target_port, sequence, acknowledged, offset, flags = _TCP_HEADER.unpack_from(
        data, at
    )
    at += (offset >> 4) * 4
    # An offloaded packet over 64 KB has no total; short ones are padded on other links.
    end = ETHERNET_BYTES + total if total else length
    payload = max(0, end - at)
    segments = max(1, -(-payload // (MTU + ETHERNET_BYTES - at)))
    flow = Flow(_address(source), source_port, _address(target), target_port)
    tcp = Tcp(flow, sequence, acknowledged, flags, payload, data[at : min(end, len(data))])
    return Seen(at_ns, outgoing, dscp, length + (segments - 1) * at, segments, tcp)

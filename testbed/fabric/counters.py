"""What the kernel counted on the links, as seen from their owners."""

import msgspec

from testbed.fabric.wire import HEADER_BYTES, SEGMENT_BYTES, ClassCounters


class LinkCounters(msgspec.Struct, frozen=True):
    """Totals since start; packets are what crossed the veth: a GSO packet of 64 KB is one."""

    received_bytes: int
    received_packets: int
    sent_bytes: int
    sent_packets: int

    @property
    def received_payload_bytes(self) -> int:
        """Received without Ethernet, IP and TCP headers (66 B a packet); pure ACKs are 0."""
        return self.received_bytes - HEADER_BYTES * self.received_packets

    @property
    def sent_payload_bytes(self) -> int:
        """Sent without headers."""
        return self.sent_bytes - HEADER_BYTES * self.sent_packets


class LinkClasses(msgspec.Struct, frozen=True):
    """HTB classes by "1:10" (MODEL, CTRL) and "1:20" (KV): at the owner's egress, and at the
    switch port that faces the owner."""

    sent: dict[str, ClassCounters]
    received: dict[str, ClassCounters]


def read_links(text: str, ports: dict[str, tuple[str, str]]) -> dict[tuple[str, str], LinkCounters]:
    """Counters from /proc/net/dev's text; what a switch port received, its owner sent."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, columns = line.partition(":")
        owner = ports.get(name.strip())
        if owner is None:
            continue
        values = columns.split()
        found[owner] = LinkCounters(
            received_bytes=int(values[8]),
            received_packets=int(values[9]),
            sent_bytes=int(values[0]),
            sent_packets=int(values[1]),
        )
    return found


def retransmitted_bytes(snmp: str) -> int:
    """Payload that a namespace's TCP sent once more, at most, from /proc/net/snmp's text.

    A machine that stops for a moment lets timers expire: then segments that were not lost cross
    their links twice. The kernel counts segments; none is longer than a full one (RFC 4022).
    """
    names, values = (line.split()[1:] for line in snmp.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")]) * SEGMENT_BYTES

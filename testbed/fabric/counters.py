"""What the kernel counted on the links, as seen from their owners."""

import msgspec

from testbed.fabric.shaping import HEADER_BYTES, SEGMENT_BYTES, ClassCounters


class LinkCounters(msgspec.Struct, frozen=True):
    """Totals since start; packets are what crossed the veth: a GSO packet of 64 KB is one."""

    received_bytes: int
    received_packets: int
    sent_bytes: int
    sent_packets: int

    def since(self, earlier: "LinkCounters") -> "LinkCounters":
        """What was counted after an earlier look."""
        return LinkCounters(
            self.received_bytes - earlier.received_bytes,
            self.received_packets - earlier.received_packets,
            self.sent_bytes - earlier.sent_bytes,
            self.sent_packets - earlier.sent_packets,
        )

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


class Offsets:
    """What to add to the kernel's counters of an interface's classes.

    A shaper that had to be made anew counts from 0, and what crossed a link to calibrate it is
    nobody's traffic. Backlogs are of the moment and stay as they are.
    """

    def __init__(self) -> None:
        self._of: dict[object, dict[str, ClassCounters]] = {}

    def told(self, end: object, raw: dict[str, ClassCounters]) -> dict[str, ClassCounters]:
        """An interface's counters with its offsets."""
        offsets = self._of.get(end)
        if offsets is None:
            return raw
        return {name: _added(one, offsets[name], 1) for name, one in raw.items()}

    def go_on_from(
        self, end: object, told: dict[str, ClassCounters], raw: dict[str, ClassCounters] | None
    ) -> None:
        """Go on from counters as told before; `raw` is the kernel's now, None if it starts anew."""
        if raw is not None:
            told = {name: _added(one, raw[name], -1) for name, one in told.items()}
        self._of[end] = told


def _added(one: ClassCounters, other: ClassCounters, sign: int) -> ClassCounters:
    return ClassCounters(
        one.sent_bytes + sign * other.sent_bytes,
        one.sent_packets + sign * other.sent_packets,
        one.dropped_packets + sign * other.dropped_packets,
        one.backlog_bytes,
    )


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

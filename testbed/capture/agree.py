"""Three accounts of one interface side by side: a capture, the shaper's classes, the ledger.

What should be equal is compared exactly: bytes and segments on the wire with the shaper's class
counters, TCP payload with what the transport says it sent, KV inside frames with the closed form.
"""

from collections.abc import Mapping

import msgspec

from testbed.capture.summary import Summary
from testbed.fabric.counters import LinkClasses
from testbed.fabric.filters import DSCP_OF_MODEL
from testbed.fabric.shaping import CLASS_NAMES, KV, MODEL
from testbed.fabric.wire import ClassCounters

_MODEL_DSCP = set(DSCP_OF_MODEL)
WAYS = {True: "sent", False: "received"}


class Line(msgspec.Struct, frozen=True):
    """One figure that the capture and another account both have; `what` says which and whose."""

    interface: str
    way: str
    what: str
    captured: int
    counted: int

    @property
    def difference(self) -> int:
        """By how much the capture has more."""
        return self.captured - self.counted

    def __str__(self) -> str:
        by = f" ({self.difference:+d})" if self.difference else ""
        return (
            f"{self.interface} {self.way} {self.what}: the capture has {self.captured}, "
            f"counted are {self.counted}{by}"
        )


def htb_class(dscp: int, qos: bool = True) -> str:
    """The shaper's class of a mark: EF and CS6 go first, all else is bulk."""
    return CLASS_NAMES[MODEL if qos and dscp in _MODEL_DSCP else KV]


def since(before: LinkClasses, after: LinkClasses) -> LinkClasses:
    """What a link's classes counted between two looks."""
    return LinkClasses(
        sent=_minus(before.sent, after.sent), received=_minus(before.received, after.received)
    )


def with_shaper(summary: Summary, counted: LinkClasses) -> list[Line]:
    """Bytes and segments on the wire, by way and class of the shaper.

    `counted` is what the classes counted while the capture ran (see `since`): at the owner's end
    what it sent, at the switch port what it received.
    """
    lines = []
    for outgoing, way in WAYS.items():
        classes: dict[str, ClassCounters] = getattr(counted, way)
        for name, counters in sorted(classes.items()):
            marks = [
                total
                for total in summary.marks
                if total.outgoing is outgoing and htb_class(total.dscp, len(classes) > 1) == name
            ]
            figures = (
                ("bytes", sum(total.wire_bytes for total in marks), counters.sent_bytes),
                ("segments", sum(total.wire_packets for total in marks), counters.sent_packets),
            )
            lines += [
                Line(
                    summary.interface, way, f"{what} on the wire, class {name} of the shaper", *two
                )
                for what, *two in figures
            ]
    return lines


def with_transport(summary: Summary, sent_bytes: Mapping[str, int]) -> list[Line]:
    """TCP payload that left, by traffic class, each byte once.

    `sent_bytes` is what the host's transport says it sent in each class over this interface (its
    account's `bytes_sent_*`, if the host has one interface for the class).
    """
    captured = {
        total.traffic_class: total.payload_bytes for total in summary.classes if total.outgoing
    }
    return [
        Line(summary.interface, "sent", f"payload of class {name}, the transport's account",
             captured.get(name, 0), count)
        for name, count in sorted(sent_bytes.items())
    ]  # fmt: skip


def with_ledger(summary: Summary, ports: Mapping[str, int]) -> list[Line]:
    """KV bytes inside frames, and the closed form of the byte ledger for the same port.

    `ports` are expected bytes by `host:nic:rx` and `host:nic:tx` (results/ledger.py).
    """
    lines = []
    for outgoing, way in WAYS.items():
        port = f"{summary.interface}:{'tx' if outgoing else 'rx'}"
        if port in ports:
            kv = sum(
                total.frame_payload_bytes
                for total in summary.classes
                if total.outgoing is outgoing and total.traffic_class == "kv"
            )
            lines.append(Line(summary.interface, way, "KV in frames, the ledger", kv, ports[port]))
    return lines


def differing(lines: list[Line]) -> list[Line]:
    """Those of the lines whose two sides are not equal."""
    return [line for line in lines if line.difference]


def _minus(
    before: Mapping[str, ClassCounters], after: Mapping[str, ClassCounters]
) -> dict[str, ClassCounters]:
    zero = ClassCounters(0, 0, 0, 0)
    return {
        name: ClassCounters(
            now.sent_bytes - (then := before.get(name, zero)).sent_bytes,
            now.sent_packets - then.sent_packets,
            now.dropped_packets - then.dropped_packets,
            now.backlog_bytes,
        )
        for name, now in after.items()
    }

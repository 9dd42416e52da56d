"""A whole capture: its frames, its flows, and its totals by class and mark.

Our flows are told by their port (class i of MODEL, KV, CTRL at the port base plus i), and their
class from there; what they really were marked is told by each packet.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from engines.real.frames import CLASSES
from engines.seams.transport import DSCP
from testbed.capture.reader import CaptureFile
from testbed.capture.records import FlowAccount, Frame, mark_name
from testbed.capture.segments import ACK, Flow, Seen, look
from testbed.capture.streams import Stream

PORT_BASE = 9410
OTHER = "other"  # flows on ports that are not ours


class MarkTotal(msgspec.Struct):
    """What crossed with one DSCP, one way; bytes as the shaper counts them (headers included)."""

    outgoing: bool | None
    dscp: int
    wire_bytes: int = 0
    wire_packets: int = 0


class ClassTotal(msgspec.Struct):
    """What flows of one class carried one way: TCP payload once each, and what came again.

    `frame_payload_bytes` is the KV alone, without frames' headers and notes.
    """

    outgoing: bool | None
    traffic_class: str
    payload_bytes: int = 0
    retransmitted_bytes: int = 0
    missing_bytes: int = 0
    frames: int = 0
    frame_bytes: int = 0
    frame_payload_bytes: int = 0
    unparsed_bytes: int = 0


class MisMarked(msgspec.Struct, frozen=True):
    """A flow on a class's port that sent packets with another class's mark, or none."""

    interface: str
    flow: Flow
    traffic_class: str
    expected_dscp: int
    found_dscp: int
    packets: int
    payload_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.interface}: flow {self.flow} of class {self.traffic_class} should have DSCP "
            f"{mark_name(self.expected_dscp)} ({self.expected_dscp}), and {self.packets} segments "
            f"with {self.payload_bytes} payload bytes had {mark_name(self.found_dscp)} "
            f"({self.found_dscp})"
        )


class Summary(msgspec.Struct):
    """What a capture adds up to; `dropped` is None if the file does not say."""

    interface: str
    packets: int
    dropped: int | None
    cut_short: bool
    marks: list[MarkTotal]
    classes: list[ClassTotal]
    flows: list[FlowAccount]
    mis_marked: list[MisMarked]
    hosts: dict[str, str]

    @property
    def checked_flows(self) -> list[FlowAccount]:
        """Flows on the classes' ports: those that have a mark to be held to."""
        return [flow for flow in self.flows if flow.expected_dscp is not None]


def summarise(
    path: Path,
    tell: Callable[[Frame], None] = lambda _: None,
    *,
    port_base: int = PORT_BASE,
    interface: str = "",
) -> Summary:
    """Read a capture; `tell` gets each frame once its last byte is known.

    `interface` is what it is called where the file has no name. Raises InputError for a file that
    is no capture.
    """
    with CaptureFile(path) as file:
        book = _Book(port_base, tell)
        packets = 0
        for packet in file:
            packets += 1
            book.add(look(packet))
        book.end()
        name = next(filter(None, file.interfaces), interface or path.stem)
        return Summary(
            name, packets, file.dropped, file.cut_short, sorted_marks(book.marks),
            book.classes(), book.accounts, mis_marked(name, book.accounts), book.hosts,
        )  # fmt: skip


def sorted_marks(marks: dict[tuple[bool | None, int], MarkTotal]) -> list[MarkTotal]:
    """Outgoing first, by mark."""
    return [marks[key] for key in sorted(marks, key=lambda key: (key[0] is not True, key[1]))]


def mis_marked(interface: str, accounts: list[FlowAccount]) -> list[MisMarked]:
    """Every flow of ours that carried another mark than its port's."""
    return [
        MisMarked(
            interface, account.flow, account.traffic_class, account.expected_dscp, dscp, packets,
            account.payload_by_dscp.get(dscp, 0),
        )
        for account in accounts
        if account.expected_dscp is not None
        for dscp, packets in sorted(account.packets_by_dscp.items())
        if dscp != account.expected_dscp
    ]  # fmt: skip


class _Book:
    """Everything that is kept while a capture is read."""

    def __init__(self, port_base: int, tell: Callable[[Frame], None]) -> None:
        self._classes = {port_base + index: name for index, name in enumerate(CLASSES)}
        self._tell = tell
        self._streams: dict[tuple[bool | None, Flow], Stream] = {}
        self._frames: dict[tuple[bool | None, str], list[int]] = {}
        self.marks: dict[tuple[bool | None, int], MarkTotal] = {}
        self.hosts: dict[str, str] = {}

    def add(self, seen: Seen) -> None:
        """Count a packet, and pass its segment to its stream."""
        key = seen.outgoing, seen.dscp
        total = self.marks.get(key)
        if total is None:
            total = self.marks[key] = MarkTotal(*key)
        total.wire_bytes += seen.wire_bytes
        total.wire_packets += seen.wire_packets
        tcp = seen.tcp
        if tcp is None:
            return
        stream = self._streams.get((seen.outgoing, tcp.flow))
        if stream is None:
            stream = self._streams[seen.outgoing, tcp.flow] = self._opened(seen.outgoing, tcp.flow)
        if tcp.flags & ACK:
            back_way = None if seen.outgoing is None else not seen.outgoing
            back = self._streams.get((back_way, tcp.flow.back()))
            if back is not None:
                back.acknowledged(tcp.acknowledged)
        stream.add(seen, tcp)

    def end(self) -> None:
        """The capture is over."""
        for stream in self._streams.values():
            stream.end()

    @property
    def accounts(self) -> list[FlowAccount]:
        """Every flow's account, in order of appearance."""
        return [stream.account for stream in self._streams.values()]

    def classes(self) -> list[ClassTotal]:
        """The accounts summed by class and way."""
        found: dict[tuple[bool | None, str], ClassTotal] = {}
        for account in self.accounts:
            key = account.outgoing, account.traffic_class or OTHER
            total = found.setdefault(key, ClassTotal(*key))
            total.payload_bytes += account.payload_bytes
            total.retransmitted_bytes += account.retransmitted_bytes
            total.missing_bytes += account.missing_bytes
            total.frame_bytes += account.frame_bytes
            total.unparsed_bytes += account.unparsed_bytes
            total.frames, total.frame_payload_bytes = self._frames.get(key, [0, 0])
        return sorted(found.values(), key=lambda t: (t.outgoing is not True, t.traffic_class))

    def _opened(self, outgoing: bool | None, flow: Flow) -> Stream:
        traffic_class = self._classes.get(flow.target_port, self._classes.get(flow.source_port))
        account = FlowAccount(flow=flow, outgoing=outgoing)
        if traffic_class is not None:
            account.traffic_class = str(traffic_class)
            account.expected_dscp = DSCP[traffic_class]
        return Stream(account, self._heard, parse=traffic_class is not None)

    def _heard(self, frame: Frame) -> None:
        key = frame.outgoing, frame.traffic_class
        count = self._frames.setdefault(key, [0, 0])
        count[0] += 1
        count[1] += frame.payload_bytes - frame.missing_bytes
        if frame.host:
            self.hosts[frame.flow.source] = frame.host
        frame.source = self.hosts.get(frame.flow.source, "")
        frame.target = self.hosts.get(frame.flow.target, "")
        self._tell(frame)

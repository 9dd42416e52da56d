"""What decoding gives: frames, and the account of each flow."""

import msgspec

from testbed.capture.segments import Flow

DSCP_NAMES = {0: "CS0", 8: "CS1", 46: "EF", 48: "CS6"}
MAX_PAIRS = 8


def mark_name(dscp: int) -> str:
    """A DSCP by its RFC's name where we use it."""
    return DSCP_NAMES.get(dscp, str(dscp))


class Frame(msgspec.Struct, kw_only=True):
    """One frame of the transport, as it crossed the interface.

    `traffic_class` is what the frame says, `marks` the DSCPs of the packets that carried it.
    `message` is empty where a kind has none; `request` and `layer` are -1 where it has none or
    all. Of `payload_bytes`, `missing_bytes` are not in the capture. `blocks` are block numbers
    of the message, `tokens` those of the target span; `host` is who greets. `source` and `target`
    are hosts' names, as far as the capture has shown them by then.
    """

    at_s: float
    outgoing: bool | None
    flow: Flow
    traffic_class: str
    kind: str
    request: int
    layer: int
    order: str
    sequence: int
    run_id: int
    header_bytes: int
    note_bytes: int
    payload_bytes: int
    message: str = ""
    missing_bytes: int = 0
    marks: tuple[int, ...] = ()
    region: str = ""
    tokens: tuple[int, int] | None = None
    blocks: tuple[tuple[int, int], ...] = ()
    host: str = ""
    source: str = ""
    target: str = ""

    @property
    def bytes(self) -> int:
        """All of it: header, note and payload."""
        return self.header_bytes + self.note_bytes + self.payload_bytes

    def line(self) -> str:
        """The frame in one line."""
        source, target = self.source or self.flow.source, self.target or self.flow.target
        marks = ",".join(mark_name(mark) for mark in self.marks)
        words = [f"{source} > {target}", f"{self.traffic_class} ({marks})", self.kind]
        if self.message:
            words.append(self.message)
        if self.host:
            words.append(f"host {self.host}")
        if self.request >= 0:
            words.append(f"request {self.request}")
        if self.layer >= 0:
            words.append(f"layer {self.layer}")
        words += [f"blocks {first}-{last - 1}" for first, last in self.blocks[:MAX_PAIRS]]
        if len(self.blocks) > MAX_PAIRS:
            words.append(f"and {len(self.blocks) - MAX_PAIRS} more extents")
        if self.tokens is not None:
            words.append(f"tokens {self.tokens[0]}-{self.tokens[1] - 1} of {self.region}")
        words.append(f"{self.bytes} B")
        if self.missing_bytes:
            words.append(f"({self.missing_bytes} B not captured)")
        return "  ".join(words)


class FlowAccount(msgspec.Struct, kw_only=True):
    """What one direction of a connection carried over the interface.

    `expected_dscp` is its port's mark, None on a port that is not ours. `payload_bytes` are bytes
    of the stream by TCP's sequence numbers, each once; `retransmitted_bytes` came again,
    `missing_bytes` never did, though the stream went on. `frame_bytes` are those of frames that
    were decoded, `unparsed_bytes` those that belong to none. `packets_by_dscp` counts segments on
    the wire by their mark, `payload_by_dscp` is `payload_bytes` by the mark that brought each.
    """

    flow: Flow
    outgoing: bool | None
    traffic_class: str = ""
    expected_dscp: int | None = None
    payload_bytes: int = 0
    retransmitted_bytes: int = 0
    missing_bytes: int = 0
    frame_bytes: int = 0
    unparsed_bytes: int = 0
    packets_by_dscp: dict[int, int] = {}
    payload_by_dscp: dict[int, int] = {}

"""What a segment weighs on a link, and what a class counted: plain facts that need no kernel."""

import msgspec

FRAME_BYTES = 1514  # on the wire at MTU 1500
SEGMENT_BYTES = 1448  # of them TCP payload, with timestamps
HEADER_BYTES = FRAME_BYTES - SEGMENT_BYTES
MODEL_CLASS, KV_CLASS = "1:10", "1:20"  # of the shaper's tree, as `tc` writes them


class ClassCounters(msgspec.Struct, frozen=True):
    """One class at one end of a link; bytes as on the wire, headers of each segment included.

    The backlog is what waits in the class's queue now.
    """

    sent_bytes: int
    sent_packets: int
    dropped_packets: int
    backlog_bytes: int

    @property
    def payload_bytes(self) -> int:
        """Without Ethernet, IP and TCP headers; pure ACKs are 0."""
        return self.sent_bytes - HEADER_BYTES * self.sent_packets


def wire_bps(payload_bps: float) -> float:
    """What the shaper must pass so that full segments carry this payload rate, in bit/s."""
    return payload_bps * FRAME_BYTES / SEGMENT_BYTES

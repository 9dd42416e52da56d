"""What a segment weighs on a link, and what a class counted: plain facts that need no kernel."""

import msgspec

FRAME_BYTES = 1514  # on the wire at MTU 1500
SEGMENT_BYTES = 1448  # of them TCP payload, with timestamps
HEADER_BYTES = FRAME_BYTES - SEGMENT_BYTES


class ClassCounters(msgspec.Struct, frozen=True):
    """One class at one end of a link; bytes as on the wire, headers of each segment included.

    The backlog is what waits in the class's queue now.
    """

    sent_bytes: int
    sent_packets: int
    dropped_packets: int
    backlog_bytes: int


def wire_bps(payload_bps: float) -> float:
    """What the shaper must pass so that full segments carry this payload rate, in bit/s."""
    return payload_bps * FRAME_BYTES / SEGMENT_BYTES

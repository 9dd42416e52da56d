"""What a host's transport moved to and from one peer in one class, in bytes."""

import msgspec

from engines.seams.transport import TrafficClass


class Tally(msgspec.Struct):
    """Payload is that of writes alone; frames are everything, headers, notes and payload.

    A payload is counted as sent when it is queued, and as received when it is whole.
    """

    sent_payload_bytes: int = 0
    sent_frame_bytes: int = 0
    received_payload_bytes: int = 0
    received_frame_bytes: int = 0


class PeerTally(msgspec.Struct, frozen=True):
    """One of them, with whom it is about."""

    peer: str
    traffic_class: TrafficClass
    moved: Tally

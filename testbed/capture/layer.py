"""A scapy layer for the frames of our transport; importing it takes scapy's second.

    from scapy.all import sniff, TCPSession
    from testbed.capture import layer

    for packet in sniff(offline="pe0-buf.pcapng", session=TCPSession):
        print(packet.summary())

With TCPSession each frame is put together from its segments. Bytes that belong to no frame become
DualPathUnparsed. For captures of gigabytes use `testbed capture --read`, which copies nothing.
"""

from typing import Any, ClassVar

from scapy.config import conf
from scapy.fields import (
    ByteEnumField,
    ByteField,
    FieldLenField,
    IntField,
    LongField,
    SignedLongField,
    SignedShortField,
    StrField,
    StrFixedLenField,
    StrLenField,
)
from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw, bind_layers

from engines.real import frames
from engines.real.frames import ALL_LAYERS, CLASSES, HEADER_BYTES, MAGIC, VERSION, Kind, Order
from testbed.capture.parser import next_header, note_fields
from testbed.capture.summary import PORT_BASE

__all__ = ["DualPathFrame", "DualPathUnparsed", "bind"]


class DualPathUnparsed(Packet):
    """Bytes on one of our ports that belong to no frame that could be read."""

    name = "DualPath, unparsed"
    fields_desc: ClassVar = [StrField("load", b"")]

    def mysummary(self) -> str:
        """How much it is."""
        return f"DualPath unparsed {len(self.load)} B"


class DualPathFrame(Packet):
    """A frame: header, msgpack note, KV payload."""

    name = "DualPath"
    fields_desc: ClassVar = [
        StrFixedLenField("magic", MAGIC, len(MAGIC)),
        ByteField("version", VERSION),
        ByteEnumField("kind", Kind.MESSAGE, {kind.value: kind.name for kind in Kind}),
        ByteEnumField(
            "traffic_class", 1, {number: str(name) for number, name in enumerate(CLASSES)}
        ),
        ByteEnumField("order", 0, {order.value: order.name for order in Order}),
        LongField("run_id", 0),
        IntField("epoch", 0),
        SignedLongField("request", -1),
        SignedShortField("layer", ALL_LAYERS),
        LongField("sent_ns", 0),
        LongField("sequence", 0),
        FieldLenField("note_bytes", None, length_of="note", fmt="!I"),
        FieldLenField("payload_bytes", None, length_of="kv", fmt="!I"),
        StrLenField("note", b"", length_from=lambda packet: packet.note_bytes),
        StrLenField("kv", b"", length_from=lambda packet: packet.payload_bytes),
    ]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *_: Any, **__: Any) -> type[Packet]:
        """A segment that begins inside a frame is not one by itself."""
        return Raw if _pkt and not _pkt.startswith(MAGIC) else cls

    @classmethod
    def tcp_reassemble(
        cls, data: bytes, metadata: dict[str, Any], _session: dict[str, Any]
    ) -> Packet | None:
        """All whole frames at the front of a stream's bytes; what is left is padding.

        They are stacked here, at once: TCPSession loses its place over several in one segment.
        """
        stack: Packet | None = None
        rest = data
        while rest:
            useless, whole = next_header(rest)
            need = _frame_bytes(rest) if whole and not useless else useless or HEADER_BYTES
            if len(rest) < need:
                metadata["tcp_min_len"] = need
                break
            piece, rest = rest[:need], rest[need:]
            layer = DualPathUnparsed(load=piece) if useless else cls(piece)
            stack = layer if stack is None else stack / layer
        if stack is not None and rest:
            stack = stack / conf.padding_layer(load=rest)
        return stack

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """What follows is the next frame, not this one's payload."""
        return b"", s

    def told(self) -> dict[str, Any]:
        """What the note says: message, blocks, tokens, region, host; as in records.Frame."""
        raw = self.original[:HEADER_BYTES] if self.original else bytes(self)[:HEADER_BYTES]
        return note_fields(frames.unpack(raw), bytes(self.note))

    def mysummary(self) -> str:
        """Class, kind, message, request, layer, tokens or blocks, bytes."""
        told = self.told()
        words = [
            f"DualPath {CLASSES[self.traffic_class]} {Kind(self.kind).name}",
            told.get("message", ""),
            f"host {told['host']}" if "host" in told else "",
            f"request {self.request}" if self.request >= 0 else "",
            f"layer {self.layer}" if self.layer >= 0 else "",
            *(f"blocks {first}-{last - 1}" for first, last in told.get("blocks", ())),
        ]
        if (tokens := told.get("tokens")) is not None:
            words.append(f"tokens {tokens[0]}-{tokens[1] - 1} of {told['region']}")
        words.append(f"{HEADER_BYTES + len(self.note) + len(self.kv)} B")
        return " ".join(filter(None, words))


def _frame_bytes(data: bytes) -> int:
    header = frames.unpack(data)
    return HEADER_BYTES + header.note_bytes + header.payload_bytes


def bind(port_base: int = PORT_BASE) -> None:
    """Have scapy read frames on the three ports from here on."""
    for port in range(port_base, port_base + len(CLASSES)):
        bind_layers(TCP, DualPathFrame, dport=port)
        bind_layers(TCP, DualPathFrame, sport=port)


bind()

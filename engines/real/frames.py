"""Frames of the TCP transport: a fixed header, a msgpack note, a payload of KV bytes."""

import struct
from enum import IntEnum
from typing import Final, NamedTuple, TypeVar

import msgspec

from engines.errors import TransferError
from engines.kv import Span
from engines.layout import KvLayout
from engines.messages import Message
from engines.seams.transport import TrafficClass

MAGIC: Final = b"DPKV"
VERSION: Final = 1
NOTE_LIMIT_BYTES: Final = 4 << 20
ALL_LAYERS: Final = -1
CLASSES: Final = (TrafficClass.MODEL, TrafficClass.KV, TrafficClass.CTRL)

T = TypeVar("T")

# magic, version, kind, class, order, run, epoch, request, layer, sent, sequence, note, payload
_HEADER: Final = struct.Struct("!4sBBBBQIqhQQII")
HEADER_BYTES: Final = _HEADER.size
_ARRIVED: Final = struct.Struct("!d")


class Kind(IntEnum):
    """What a frame is; the first frame of a connection is its dialler's HELLO."""

    HELLO = 1
    WRITE = 2
    MESSAGE = 3
    ACK = 4
    CLOSING = 5


class Order(IntEnum):
    """How a payload lies: `[rows, layers, width]`, or whole Full Blocks as in a pool."""

    ROWS = 0
    BLOCKS = 1


# Plain numbers: looking up the members costs more than comparing them.
_FIRST, _LAST, _WRITE, _ORDERS = int(Kind.HELLO), int(Kind.CLOSING), int(Kind.WRITE), 1
_CLASSES: Final = len(CLASSES)


class Header(NamedTuple):
    """The fixed part of a frame; `sent_ns` is the sender's monotonic time, in real nanoseconds."""

    kind: int
    traffic_class: int
    order: int
    run_id: int
    epoch: int
    request: int
    layer: int
    sent_ns: int
    sequence: int
    note_bytes: int
    payload_bytes: int


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """Who dials."""

    host: str


class Doorbell(msgspec.Struct, frozen=True, array_like=True):
    """A write's note: what to deliver once the payload lies in `target`."""

    message: Message
    target: Span


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_hello = msgspec.msgpack.Decoder(Hello)
_doorbell = msgspec.msgpack.Decoder(Doorbell)
_message: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def pack(*fields: int) -> bytes:
    """A header's fields, in the order of Header, as HEADER_BYTES bytes, big-endian."""
    return _HEADER.pack(MAGIC, VERSION, *fields)


def unpack(data: bytes | bytearray | memoryview, offset: int = 0) -> Header:
    """Read a header; TransferError if it is not one of ours, or over the limits."""
    magic, version, *fields = _HEADER.unpack_from(data, offset)
    if magic != MAGIC:
        raise TransferError(
            f"frame starts with {magic!r} instead of {MAGIC!r}; what dialled is no testbed host"
        )
    if version != VERSION:
        raise TransferError(
            f"frame has version {version}, this host speaks {VERSION}; "
            "start all hosts from one checkout"
        )
    kind, traffic_class, order, *_, note_bytes, payload_bytes = fields
    header = Header(*fields)
    if (
        not _FIRST <= kind <= _LAST
        or traffic_class >= _CLASSES
        or order > _ORDERS
        or note_bytes > NOTE_LIMIT_BYTES
        or (payload_bytes and kind != _WRITE)
    ):
        _complain(header)
    return header


def _complain(header: Header) -> None:
    if not Kind.HELLO <= header.kind <= Kind.CLOSING:
        raise TransferError(f"frame {header.sequence} is of unknown kind {header.kind}")
    if header.traffic_class >= len(CLASSES):
        raise TransferError(f"frame {header.sequence} has unknown class {header.traffic_class}")
    if header.order > Order.BLOCKS:
        raise TransferError(f"frame {header.sequence} has unknown payload order {header.order}")
    if header.note_bytes > NOTE_LIMIT_BYTES:
        raise TransferError(
            f"frame {header.sequence} has a note of {header.note_bytes} bytes, the limit is "
            f"{NOTE_LIMIT_BYTES}; send KV as a write, not as a message"
        )
    if header.payload_bytes and header.kind != Kind.WRITE:
        raise TransferError(
            f"frame {header.sequence} of kind {Kind(header.kind).name} carries "
            f"{header.payload_bytes} bytes of payload; only writes may"
        )


def decode_hello(note: bytes | memoryview) -> Hello:
    """The dialler's name."""
    return _decode(_hello, note)


def decode_doorbell(note: bytes | memoryview) -> Doorbell:
    """A write's message and target span."""
    return _decode(_doorbell, note)


def decode_message(note: bytes | memoryview) -> Message:
    """A plain message."""
    return _decode(_message, note)


def encode_arrival(arrived_s: float) -> bytes:
    """The note of an ACK: the target time at which the data was in place."""
    return _ARRIVED.pack(arrived_s)


def decode_arrival(note: bytes | memoryview) -> float:
    """The arrival time that an ACK carries, in target seconds."""
    if len(note) != _ARRIVED.size:
        raise TransferError(f"an ACK's note has {len(note)} bytes instead of {_ARRIVED.size}")
    arrived_s: float = _ARRIVED.unpack(note)[0]
    return arrived_s


def in_place(layout: KvLayout, span: Span) -> bool:
    """Whether a span is whole Full Blocks, so that its bytes lie end to end in a pool."""
    per_block = layout.rows_per_block
    return (
        span.layer_first == 0
        and span.layer_last == layout.layers
        and layout.rows(span.first) % per_block == 0
        and layout.rows(span.last) % per_block == 0
    )


def check_span(layout: KvLayout, span: Span) -> None:
    """Raise TransferError unless layers and slot exist in the layout (tokens: see KvPool)."""
    if not 0 <= span.layer_first < span.layer_last <= layout.layers or (
        span.slot % layout.block_tokens
    ):
        raise TransferError(
            f"{span} is no span of {layout.layers} layers in blocks of {layout.block_tokens} "
            "tokens; sender and receiver must run the same experiment"
        )


def request_of(message: Message) -> int:
    """The request that a message is about, or -1."""
    holder = getattr(message, "turn", message)  # Assign carries its turn whole
    request = getattr(holder, "request", -1)
    return request if isinstance(request, int) else int(request.id)


def layer_of(span: Span) -> int:
    """The one layer of a span, or ALL_LAYERS."""
    return span.layer_first if span.layer_last == span.layer_first + 1 else ALL_LAYERS


def _decode(decoder: msgspec.msgpack.Decoder[T], note: bytes | memoryview) -> T:
    try:
        return decoder.decode(note)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TransferError(f"a note of {len(note)} bytes is malformed: {error}") from error

"""Segments that no kernel sent, into a capture file: for tests of what reads one."""

import os
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from engines.kv import Extent, Span
from engines.messages import Barrier, LayerLoaded, Persist, Read
from engines.real import frames
from engines.real.frames import Header, Kind, Order
from testbed.fabric.pcapng import Pcapng

EF, CS1, CS0 = 46, 8, 0
ISN = 0xFFFF_FF00  # the stream wraps after 255 bytes
SYN, FIN, ACK = 0x02, 0x01, 0x10


class Sent(NamedTuple):
    """One packet of a test."""

    data: bytes
    outgoing: bool = True
    length: int = 0


def segment(
    sequence: int, payload: bytes = b"", *, flags: int = ACK, dscp: int = CS1, back: bool = False,
    port: int = 9411, acknowledged: int = 1, outgoing: bool | None = None,
) -> Sent:  # fmt: skip
    """From 198.18.0.3:40000 to 198.18.0.2 and the port, or back."""
    ends = [(IPv4Address("198.18.0.3"), 40000), (IPv4Address("198.18.0.2"), port)]
    (source, source_port), (target, target_port) = reversed(ends) if back else ends
    tcp = struct.pack(
        "!HHIIBBHHH12x", source_port, target_port, sequence % 2**32, acknowledged % 2**32,
        8 << 4, flags, 500, 0, 0,
    )  # fmt: skip
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, dscp << 2, 52 + len(payload), 0, 0, 64, 6, 0,
        source.packed, target.packed,
    )  # fmt: skip
    data = bytes(12) + b"\x08\x00" + ip + tcp + payload
    return Sent(data, not back if outgoing is None else outgoing, len(data))


def write_capture(path: Path, packets: Iterable[Sent], name: str = "pe0-buf:snic") -> Path:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        file = Pcapng(fd, name, 1 << 18)
        count = 0
        for count, (data, outgoing, length) in enumerate(packets, 1):
            file.packet(count * 1000, data, length or len(data), outgoing=outgoing)
        file.end(count * 1000, count, 0)
    finally:
        os.close(fd)
    return path


def frame(kind: Kind, note: bytes, payload: bytes = b"", **fields: int) -> bytes:
    header = {
        "kind": kind, "traffic_class": 1, "order": Order.BLOCKS, "run_id": 7, "epoch": 1,
        "request": -1, "layer": -1, "sent_ns": 0, "sequence": 1,
        "note_bytes": len(note), "payload_bytes": len(payload),
    } | fields  # fmt: skip
    return frames.pack(*Header(**header)) + note + payload


def conversation() -> list[bytes]:
    """What a dialler says: five frames, with blocks, a layer, a span, and a request."""
    span = Span("hbm", 0, 64, 192, 2, 3)
    read = Read(17, (Extent(4, 10, 5), Extent(4, 40, 1)), span)
    bell = frames.Doorbell(LayerLoaded(17, 2, 64, 192), span)
    keep = frames.Doorbell(Persist(18, Extent(4, 6, 2), span, b"d" * 16), span)
    return [
        frame(Kind.HELLO, frames.encode(frames.Hello("store0"))),
        frame(Kind.MESSAGE, frames.encode(read), request=17),
        frame(Kind.WRITE, frames.encode(bell), bytes(range(256)) * 20, request=17, layer=2),
        frame(Kind.WRITE, frames.encode(keep), b"DPKV" * 700, request=18),
        frame(Kind.MESSAGE, frames.encode(Barrier(3, 1, 0.5, b"x" * 90)), traffic_class=0),
    ]


def cut(stream: bytes, sizes: Iterable[int]) -> list[tuple[int, bytes]]:
    """A stream in pieces of these sizes, each with its place; the last is what is left."""
    pieces, at = [], 0
    for size in sizes:
        if at < len(stream):
            pieces.append((at, stream[at : at + size]))
            at += size
    return [*pieces, (at, stream[at:])] if at < len(stream) else pieces

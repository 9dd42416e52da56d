"""Reads pcapng and pcap files: ours, tcpdump's and Wireshark's.

A file that ends in the middle of a packet, because its writer was killed, gives all before it.
"""

import mmap
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from testbed.errors import InputError
from testbed.fabric.pcapng import (
    BYTE_ORDER,
    DROPPED,
    ETHERNET,
    FLAGS,
    IF_NAME,
    IF_RESOLUTION,
    INBOUND,
    INTERFACE,
    OUTBOUND,
    PACKET,
    SECTION,
    STATISTICS,
)

# A pcap file's first four bytes, as a number in its own byte order: nanoseconds a unit of time.
_PCAP_UNIT_NS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
_PCAP_HEAD_BYTES, _PCAP_RECORD_BYTES = 24, 16
_BLOCK_LIMIT_BYTES = 16 << 20
_MICROSECONDS = 6


class Packet(NamedTuple):
    """One packet; `length` is what it had on the link, `data` what the file has of it.

    `outgoing` is None where the file does not say; the data is valid while the file is open.
    """

    at_ns: int
    outgoing: bool | None
    length: int
    data: memoryview


class _Interface(NamedTuple):
    link_type: int
    name: str
    ticks_per_s: int


class CaptureFile:
    """An open capture; iterate for its packets, as a context manager.

    After that `dropped` says how many the writer missed (None: it does not say), `cut_short`
    whether the file ends inside a packet, `foreign` how many packets were no Ethernet, and
    `interfaces` the names that the file gives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped: int | None = None
        self.cut_short = False
        self.foreign = 0
        self.interfaces: list[str] = []
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise InputError(f"{path} is empty; give a pcap or pcapng file") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        self._data = memoryview(self._map)

    def __enter__(self) -> "CaptureFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._data.release()
        with suppress(BufferError):  # a packet is still held: the map closes with it
            self._map.close()

    def __iter__(self) -> Iterator[Packet]:
        """Every packet in the file's order; raises InputError for a file of another kind."""
        data = self._data
        first = bytes(data[:4])
        if first == struct.pack("=I", SECTION):  # reads the same in both byte orders
            yield from self._pcapng(data)
            return
        for order in "<>":
            if len(first) == 4:
                unit = _PCAP_UNIT_NS.get(struct.unpack(order + "I", first)[0])
                if unit is not None and len(data) >= _PCAP_HEAD_BYTES:
                    yield from self._pcap(data, order, unit)
                    return
        raise InputError(f"{self.path} is no capture; give a pcap or pcapng file")

    def _pcap(self, data: memoryview, order: str, unit_ns: int) -> Iterator[Packet]:
        link_type = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF
        if link_type != ETHERNET:
            raise InputError(
                f"{self.path} has link type {link_type}, not Ethernet; capture on one interface"
            )
        record = struct.Struct(order + "IIII")
        at = _PCAP_HEAD_BYTES
        while at + _PCAP_RECORD_BYTES <= len(data):
            second, fraction, kept, length = record.unpack_from(data, at)
            at += _PCAP_RECORD_BYTES
            if at + kept > len(data):
                break
            at_ns = second * 10**9 + fraction * unit_ns
            yield Packet(at_ns, None, length, data[at : at + kept])
            at += kept
        else:
            self.cut_short = at < len(data)
            return
        self.cut_short = True

    def _pcapng(self, data: memoryview) -> Iterator[Packet]:
        order, at = "<", 0
        interfaces: list[_Interface] = []
        while at < len(data):
            if at + 12 > len(data):
                break
            kind = struct.unpack_from(order + "I", data, at)[0]
            if kind == SECTION:
                mark = struct.unpack_from("<I", data, at + 8)[0]
                order = "<" if mark == BYTE_ORDER else ">"
                interfaces = []
            size = struct.unpack_from(order + "I", data, at + 4)[0]
            if size < 12 or size % 4 or size > _BLOCK_LIMIT_BYTES:
                raise InputError(f"{self.path} is damaged at byte {at}: a block of {size} bytes")
            if at + size > len(data):
                break
            body = data[at + 8 : at + size - 4]
            at += size
            if kind == INTERFACE:
                interfaces.append(self._interface(order, body))
            elif kind == STATISTICS:
                self._statistics(order, body)
            elif kind == PACKET:
                packet = self._packet(order, body, interfaces, at)
                if packet is not None:
                    yield packet
        self.cut_short = at < len(data)

    def _interface(self, order: str, body: memoryview) -> _Interface:
        options = _options(order, body[8:])
        name = bytes(options.get(IF_NAME, b"")).decode(errors="replace")
        resolution = options.get(IF_RESOLUTION, b"\x06")[0]
        base = 2 if resolution & 0x80 else 10
        self.interfaces.append(name)
        link_type = struct.unpack_from(order + "H", body)[0]
        return _Interface(link_type, name, base ** (resolution & 0x7F))

    def _statistics(self, order: str, body: memoryview) -> None:
        dropped = _options(order, body[12:]).get(DROPPED)
        if dropped is not None and len(dropped) == 8:
            self.dropped = (self.dropped or 0) + struct.unpack(order + "Q", dropped)[0]

    def _packet(
        self, order: str, body: memoryview, interfaces: list[_Interface], at: int
    ) -> Packet | None:
        number, high, low, kept, length = struct.unpack_from(order + "IIIII", body)
        if number >= len(interfaces) or 20 + kept > len(body):
            raise InputError(f"{self.path} is damaged before byte {at}: a packet without its place")
        interface = interfaces[number]
        if interface.link_type != ETHERNET:
            self.foreign += 1
            return None
        flags = _options(order, body[20 + (kept + 3 & ~3) :]).get(FLAGS)
        way = struct.unpack(order + "I", flags)[0] & 3 if flags is not None else 0
        outgoing = {INBOUND: False, OUTBOUND: True}.get(way)
        at_ns = ((high << 32) + low) * 10**9 // interface.ticks_per_s
        return Packet(at_ns, outgoing, length, body[20 : 20 + kept])


def _options(order: str, data: memoryview) -> dict[int, memoryview]:
    found: dict[int, memoryview] = {}
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from(order + "HH", data, at)
        if code == 0 or at + 4 + size > len(data):
            break
        found[code] = data[at + 4 : at + 4 + size]
        at += 4 + (size + 3 & ~3)
    return found

"""Writes pcapng: the file that Wireshark and tcpdump read, whole after every `flush`."""

import os
import struct

ETHERNET = 1
SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
BYTE_ORDER = 0x1A2B3C4D
# Options: of the interface, of a packet, of the statistics, and of all
IF_NAME, IF_RESOLUTION = 2, 9
FLAGS, INBOUND, OUTBOUND = 2, 1, 2
RECEIVED, DROPPED = 4, 5
END_OF_OPTIONS = 0
NANOSECONDS = 9

_HEAD = struct.Struct("=IIIIIII")
_SIZE = struct.Struct("=I")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + value + _PADDING[len(value) % 4]


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + size + body + size


_DIRECTION = {
    outgoing: _option(FLAGS, struct.pack("=I", OUTBOUND if outgoing else INBOUND))
    + _option(END_OF_OPTIONS, b"")
    for outgoing in (True, False)
}


class Pcapng:
    """One interface's packets into an open file; nanoseconds since the epoch."""

    def __init__(self, fd: int, name: str, snaplen: int) -> None:
        self._fd = fd
        self._waiting = bytearray(
            _block(SECTION, struct.pack("=IHHq", BYTE_ORDER, 1, 0, -1))
        ) + _block(
            INTERFACE,
            struct.pack("=HHI", ETHERNET, 0, snaplen)
            + _option(IF_NAME, name.encode())
            + _option(IF_RESOLUTION, bytes([NANOSECONDS]))
            + _option(END_OF_OPTIONS, b""),
        )
        self.flush()

    def packet(self, at_ns: int, data: memoryview | bytes, length: int, *, outgoing: bool) -> None:
        """Add a packet of `length` bytes, of which `data` was kept."""
        kept = len(data)
        options, padding = _DIRECTION[outgoing], _PADDING[kept % 4]
        size = _HEAD.size + kept + len(padding) + len(options) + 4
        waiting = self._waiting
        waiting += _HEAD.pack(PACKET, size, 0, at_ns >> 32, at_ns & 0xFFFFFFFF, kept, length)
        waiting += data
        waiting += padding
        waiting += options
        waiting += _SIZE.pack(size)

    def end(self, at_ns: int, received: int, dropped: int) -> None:
        """Say how many packets there were, and how many of them are not in the file."""
        self._waiting += _block(
            STATISTICS,
            struct.pack("=III", 0, at_ns >> 32, at_ns & 0xFFFFFFFF)
            + _option(RECEIVED, struct.pack("=Q", received))
            + _option(DROPPED, struct.pack("=Q", dropped))
            + _option(END_OF_OPTIONS, b""),
        )
        self.flush()

    def flush(self) -> None:
        """Hand everything to the kernel: from here on a kill loses nothing of it."""
        with memoryview(self._waiting) as waiting:
            done = 0
            while done < len(waiting):
                done += os.write(self._fd, waiting[done:])
        self._waiting.clear()

"""The stream of one connection, cut into frames; payloads go straight to where they belong."""

import asyncio
import os
import socket
import time
from contextlib import suppress
from typing import cast

from engines.errors import TransferError
from engines.real import frames
from engines.real.frames import HEADER_BYTES, Header

SCRATCH_BYTES = 64 << 10
# Behind a payload of this size the next one is to be expected: reading no more than its header and
# note into the scratch spares the copy of what the kernel can put in place itself.
LARGE_BYTES = 16 << 10
SHORT_READ_BYTES = 256
# A payload that trickles in wakes us when so much of its rest is there, not for every packet. One
# that comes as fast as memory can copy it is taken in pieces that are still in a CPU's cache.
READ_BATCH_BYTES = 256 << 10
FAST_BATCH_BYTES, FAST_BYTES_PER_S = 32 << 10, 1 << 30


class Incoming(asyncio.BufferedProtocol):
    """Headers and notes are read into a scratch, each payload into the place that it is given.

    Who extends it says what frames mean: `_check`, `_take`, `_arrived` and `_refuse`. These are
    methods and no callbacks of another object because they run for every frame.
    """

    _socket: socket.socket

    def __init__(self) -> None:
        self._scratch = bytearray(SCRATCH_BYTES)
        self._start = self._end = 0  # of what lies in the scratch and is not taken yet
        self._read_limit = SCRATCH_BYTES
        self._sink: memoryview | None = None  # the place of a payload that is not whole yet
        self._filled = 0
        self._sink_since_s = 0.0
        self._fast = False
        self._woken_at = 1  # bytes that the kernel holds when it says that there are some

    @property
    def _partial(self) -> bool:
        """Whether the stream stands in the middle of a frame."""
        return self._end > self._start or self._sink is not None

    # What frames mean

    def _check(self, header: Header) -> None:
        """Raise TransferError for a frame that has no business here; its note may be missing."""
        raise NotImplementedError

    def _take(self, header: Header, note: memoryview) -> None:
        """A frame without its payload; it calls `_fill` with the place of that."""
        raise NotImplementedError

    def _arrived(self, payload: memoryview) -> None:
        """The payload of the last frame is complete."""
        raise NotImplementedError

    def _refuse(self, error: TransferError) -> None:
        """What came is wrong: nothing more is to be read."""
        raise NotImplementedError

    # Callbacks of the loop

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where the kernel may put the next bytes: the rest of a payload, or the scratch."""
        # typeshed asks for a bytearray; the loops take any writable buffer.
        if self._sink is not None:
            return cast(bytearray, self._sink[self._filled :])
        return cast(bytearray, memoryview(self._scratch)[self._end : self._end + self._read_limit])

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has arrived; any error ends the connection and surfaces in `receive`."""
        try:
            if self._sink is None:
                self._end += nbytes
            else:
                self._filled += nbytes
                if self._fast:
                    self._read_on()
                if (left := len(self._sink) - self._filled) > 0:
                    batch = FAST_BATCH_BYTES if self._fast else READ_BATCH_BYTES
                    return self._wake_at(min(left, batch))
                self._wake_at(1)
                payload, self._sink = self._sink, None
                self._pace(len(payload))
                self._arrived(payload)
            self._parse()
        except TransferError as error:
            self._refuse(error)
        except Exception as error:  # a callback's exception would vanish in the loop's log
            self._refuse(TransferError(f"{type(error).__name__} while receiving: {error}"))

    # Scratch and payloads

    def _wake_at(self, size: int) -> None:
        if size != self._woken_at:
            self._woken_at = size
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _read_on(self) -> None:
        """Take what is there of the payload by now, without a turn of the loop for each piece.

        Of a stream that ended or broke, the loop meets the end when it reads next.
        """
        assert self._sink is not None
        with suppress(OSError):
            fd = self._socket.fileno()
            while self._filled < len(self._sink):
                size = os.readv(fd, [self._sink[self._filled :]])
                if not size:
                    return
                self._filled += size

    def _pace(self, size: int) -> None:
        """Choose the next payload's pieces by how fast this one came."""
        if size >= READ_BATCH_BYTES:
            took_s = time.monotonic() - self._sink_since_s
            self._fast = size > took_s * FAST_BYTES_PER_S

    def _parse(self) -> None:
        while self._sink is None:
            have = self._end - self._start
            if have < HEADER_BYTES:
                return self._make_room(HEADER_BYTES)
            header = frames.unpack(self._scratch, self._start)
            self._check(header)
            need = HEADER_BYTES + header.note_bytes
            if have < need:
                return self._make_room(need)
            note = memoryview(self._scratch)[self._start + HEADER_BYTES : self._start + need]
            self._start += need
            self._take(header, note)

    def _make_room(self, need: int) -> None:
        """Move what is there to the front of a scratch that holds `need` bytes, and read them."""
        self._read_limit = max(self._read_limit, need)
        if self._start == self._end and need <= len(self._scratch):
            self._start = self._end = 0
            return
        rest = self._scratch[self._start : self._end]
        if need > len(self._scratch):
            self._scratch = bytearray(need)
        self._scratch[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _fill(self, place: memoryview) -> None:
        """Put a payload there, beginning with the part of it that lies in the scratch already."""
        size = len(place)
        self._read_limit = SHORT_READ_BYTES if size >= LARGE_BYTES else SCRATCH_BYTES
        here = min(size, self._end - self._start)
        place[:here] = memoryview(self._scratch)[self._start : self._start + here]
        self._start += here
        if here == size:
            return self._arrived(place)
        self._sink, self._filled, self._sink_since_s = place, here, time.monotonic()
        self._start = self._end = 0

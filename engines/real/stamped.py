"""Connections of class MODEL: sent in the instant of the post, stamped by the kernel on arrival.

What a collective takes on the network must not hold what processes take: on a machine of few cores
a host may wait for a CPU for longer than a message is under way. So a frame leaves within `write`,
and the receiver asks the kernel when it came (SO_TIMESTAMPNS), however late it looks itself.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from engines.messages import Message
from engines.real import frames
from engines.real.connection import Connection
from engines.real.frames import Header

SO_TIMESTAMPNS = SCM_TIMESTAMPNS = 35  # asm-generic/socket.h; not in Python's socket
BUFFER_BYTES = 1 << 20
_TIMESPEC = struct.Struct("@qq")
ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)


class StampedConnection(Connection):
    """A connection whose messages know how long the network had them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._held: list[tuple[int, Message]] = []
        self._stamp_ns = 0

    def stamped(self, nbytes: int, arrived_ns: int) -> None:
        """Take what was read at once; the last of it reached this host's kernel at `arrived_ns`."""
        self._stamp_ns = arrived_ns
        self.buffer_updated(nbytes)

    def _parse(self) -> None:
        try:
            super()._parse()
        finally:  # what came before a frame that is refused did come
            self._deliver_held()

    def _deliver_held(self) -> None:
        """Messages of one read, which have one stamp.

        The kernel keeps one stamp for frames that it joined while we did not look. Each is taken
        to have been no longer under way than the ones behind it.
        """
        held, self._held = self._held, []
        shortest_ns, deliveries = None, []
        for sent_ns, message in reversed(held):
            network_ns = max(0, self._stamp_ns - sent_ns)
            shortest_ns = network_ns if shortest_ns is None else min(shortest_ns, network_ns)
            deliveries.append((message, shortest_ns))
        for message, network_ns in reversed(deliveries):
            self._deliver(message, network_ns)

    def _message(self, header: Header, note: memoryview) -> None:
        self._held.append((header.sent_ns, frames.decode_message(note)))


class StampedTransport(asyncio.Transport):
    """A connected socket for a StampedConnection; everything runs in the loop's thread."""

    def __init__(self, sock: socket.socket, protocol: StampedConnection) -> None:
        super().__init__({"socket": sock})
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._protocol = protocol
        self._queue = bytearray()
        self._high = 1 << 16
        self._paused = self._closing = self._eof = self._lost = False
        protocol.connection_made(self)
        self._loop.add_reader(sock, self._readable)

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pause the protocol above `high` bytes, and resume it when all are gone."""
        self._high = self._high if high is None else high

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send now what the kernel takes, and the rest as soon as it does."""
        sent = 0
        if not self._queue:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                return self._end(error)
            if sent < len(data):
                self._loop.add_writer(self._sock, self._writable)
        self._queue += memoryview(data)[sent:]
        if len(self._queue) > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        """Send several pieces as one."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Send what is queued, then the end of the stream."""
        self._eof = True
        if not self._queue and not self._lost:
            self._shut()

    def _shut(self) -> None:
        """Say that nothing more comes; a peer that has reset the connection needs no word."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Send what is queued, then hang up."""
        self._closing = True
        if not self._queue:
            self._end(None)

    def abort(self) -> None:
        """Hang up at once."""
        self._end(None)

    def _readable(self) -> None:
        buffer = self._protocol.get_buffer(-1)
        try:
            count, ancillary, _, _ = self._sock.recvmsg_into([buffer], ANCILLARY_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            return self._end(error)
        if count:
            return self._protocol.stamped(count, _arrived_ns(ancillary))
        self._loop.remove_reader(self._sock)
        if not self._protocol.eof_received():
            self.close()

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._queue)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            return self._end(error)
        del self._queue[:sent]
        if self._queue:
            return
        self._loop.remove_writer(self._sock)
        if self._paused:
            self._paused = False
            self._protocol.resume_writing()
        if self._closing:
            self._end(None)
        elif self._eof:
            self._shut()

    def _end(self, error: OSError | None) -> None:
        """Hang up, and tell the protocol in the loop's next turn, as loops do."""
        self._closing = True
        if self._lost:
            return
        self._lost = True
        self._queue.clear()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._loop.call_soon(self._protocol.connection_lost, error)


class StampedServer:
    """Accepts connections of class MODEL on a bound socket; OSError if it cannot listen."""

    def __init__(self, listener: socket.socket, accept: Callable[[], StampedConnection]) -> None:
        self._listener = listener
        self._accept = accept
        prepare(listener)  # what it accepts inherits that
        listener.listen()
        asyncio.get_running_loop().add_reader(listener, self._accept_one)

    def close(self) -> None:
        """Accept nobody any more; a second time does nothing."""
        if self._listener.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()

    def _accept_one(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # whoever it was has left
            return
        sock.setblocking(False)
        StampedTransport(sock, self._accept())


def prepare(sock: socket.socket) -> None:
    """Before it connects or listens: have the kernel stamp what arrives, and hold whole messages.

    A message that fits into no buffer would wait for a process to look. The kernel gives what it
    allows.
    """
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)


def _arrived_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The kernel's stamp on the monotonic clock; now, if it has none."""
    now_ns = time.monotonic_ns()
    wall_ns = time.time_ns()  # at once: what passes between the two is an error of the stamp
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SCM_TIMESTAMPNS:
            seconds, nanoseconds = cast(tuple[int, int], _TIMESPEC.unpack(data))
            return seconds * 1_000_000_000 + nanoseconds - (wall_ns - now_ns)
    return now_ns

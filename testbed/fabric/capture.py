"""What crosses one interface of one host, into a pcapng file: AF_PACKET and no other program.

The kernel copies packets into a ring that both sides map; nothing is lost at gigabits although
Python reads it, since offloaded packets are up to 64 KB. The file names each packet's direction,
and at its end how many packets the ring had no room for.
"""

import ctypes
import mmap
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from testbed.errors import EnvironmentUnfit, InputError, RunFailed
from testbed.fabric.namespaces import joined
from testbed.fabric.pcapng import Pcapng
from testbed.fabric.private import die_with_parent

SNAPLEN_BYTES = 262_144
MIN_SNAPLEN_BYTES = 64
BLOCK_BYTES = 1 << 20
BLOCKS = 64
RETIRE_MS = 20  # a block that is not full goes to the reader after this
POLL_MS = 50

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 5, 6, 10
_TPACKET_V3 = 2
_OUTGOING = 4  # sockaddr_ll's packet type
_SO_ATTACH_FILTER = 26
_BPF_RETURN = 0x06
_TO_USER = 1
_STATUS_AT, _PACKETS_AT, _FIRST_AT = 8, 12, 16  # in a block's descriptor (if_packet.h)
# next, seconds, nanoseconds, captured, length, status, MAC's offset; the type is in sockaddr_ll
_PACKET = struct.Struct("=IIIIIIH32xB")
assert _PACKET.size == 59


class CaptureEnd(msgspec.Struct, frozen=True):
    """What a capture came to; `dropped` are packets that the ring had no room for.

    `cut` are packets of which the file has only the first `snaplen` bytes.
    """

    path: str
    packets: int
    dropped: int
    cut: int
    why: str = ""  # if it ended by itself


class Lifeline(Protocol):
    """Something that becomes readable when a network's owner has ended."""

    def fileno(self) -> int:
        """What to poll."""
        ...

    def close(self) -> object:
        """Give it back."""
        ...


class PacketSocket(NamedTuple):
    """A packet socket that receives nothing yet, and the interfaces of its namespace.

    An open socket keeps its namespace alive: `lifeline` tells when nobody else does any more.
    """

    socket: socket.socket
    interfaces: list[str]
    lifeline: Lifeline | None = None

    def close(self) -> None:
        """Give both back."""
        self.socket.close()
        if self.lifeline is not None:
            self.lifeline.close()


class Capture:
    """One capture; the socket and the file are open, and packets are kept from here on.

    `source` is a host's namespace (HostNet.netns_fd), or a packet socket of it. `snaplen` is how
    many bytes of each packet are kept; `count` and `seconds` end it by itself; the path "-" is
    standard output; `label` names the interface in the file. Raises InputError for an interface
    that is not there or a path that cannot be written, EnvironmentUnfit if the kernel refuses.
    """

    def __init__(
        self,
        source: int | PacketSocket,
        interface: str,
        path: Path | str,
        snaplen: int = SNAPLEN_BYTES,
        count: int | None = None,
        seconds: float | None = None,
        label: str = "",
    ) -> None:
        self.interface, self.path = interface, str(path)
        self._count, self._seconds = count, seconds
        self._packets = self._cut = self._dropped = self._block = 0
        self._source = packet_socket(source) if isinstance(source, int) else source
        self._socket = self._source.socket
        try:
            if not MIN_SNAPLEN_BYTES <= snaplen <= SNAPLEN_BYTES:
                raise InputError(
                    f"a snaplen of {snaplen} bytes is not between {MIN_SNAPLEN_BYTES}, which holds "
                    f"the headers, and {SNAPLEN_BYTES}"
                )
            if interface not in self._source.interfaces:
                known = ", ".join(self._source.interfaces)
                raise InputError(f"no interface {interface!r} to capture on; there are {known}")
            self._ring = _ring(self._socket)
            self._accept(snaplen)
            self._fd = _opened(self.path)
            self._file = Pcapng(self._fd, label or interface, snaplen)
            self._socket.bind((interface, _ETH_P_ALL))
        except BaseException:
            self._source.close()
            raise

    def run(self, stop: Callable[[], bool]) -> CaptureEnd:
        """Write packets until `stop`, which is asked at least every 50 ms, or the limits.

        Closes it, also if it raises: OSError where the file cannot take more.
        """
        try:
            return self._run(stop)
        finally:
            self.close()

    def _run(self, stop: Callable[[], bool]) -> CaptureEnd:
        end_s = None if self._seconds is None else time.monotonic() + self._seconds
        why = ""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLERR)
        if self._source.lifeline is not None:
            poll.register(self._source.lifeline, select.POLLIN)
        while not why and not stop():
            if end_s is not None and time.monotonic() >= end_s:
                why = f"{self._seconds:g} s are over"
            elif self._full:
                why = f"{self._count} packets are kept"
            elif not self._take_block():
                why = self._wait(poll)
        self._accept(0)  # what waits in the ring is still ours, what comes now is not
        if self._source.lifeline is not None:
            poll.unregister(self._source.lifeline)
        while not self._full and (self._take_block() or poll.poll(3 * RETIRE_MS)):
            if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                break
        return self._finish(why)

    @contextmanager
    def in_background(self) -> Iterator[Callable[[], CaptureEnd]]:
        """Capture in a child process for the length of a with block; then the result is the end.

        The child dies with the thread that started it. Raises RunFailed, at the end, if it died.
        """
        stop_read, stop_write = os.pipe()
        told_read, told_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(stop_write)
            os._exit(self._child(stop_read, told_write))
        os.close(stop_read)
        os.close(told_write)
        self.close()
        ended: list[CaptureEnd] = []
        try:
            yield lambda: ended[0]
        finally:
            with suppress(BrokenPipeError):
                os.write(stop_write, b"x")  # later children may hold copies: closing is not enough
            os.close(stop_write)
            with os.fdopen(told_read, "rb") as told:
                words = told.read()
            os.waitpid(pid, 0)
        if not words.startswith(b"{"):
            reason = words.decode(errors="replace") or "it was killed"
            raise RunFailed(f"the capture on {self.interface} into {self.path} ended: {reason}")
        ended.append(msgspec.json.decode(words, type=CaptureEnd))

    @contextmanager
    def in_thread(self) -> Iterator[Callable[[], CaptureEnd]]:
        """As `in_background`, in a thread of this process: where it must not fork."""
        stopping = threading.Event()
        ended: list[CaptureEnd] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                ended.append(self.run(stopping.is_set))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work, name=f"capture {self.path}", daemon=True)
        thread.start()
        try:
            yield lambda: ended[0]
        finally:
            stopping.set()
            thread.join()
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Give back what this process holds; the file keeps what was written."""
        self._ring.close()
        self._source.close()
        if self.path != "-":
            os.close(self._fd)

    def _child(self, stop_fd: int, told_fd: int) -> int:
        try:
            die_with_parent()
            end = self.run(lambda: bool(select.select([stop_fd], [], [], 0)[0]))
            os.write(told_fd, msgspec.json.encode(end))
        except BaseException as error:
            os.write(told_fd, f"{type(error).__name__}: {error}".encode())
            return 1
        return 0

    @property
    def _full(self) -> bool:
        return self._count is not None and self._packets >= self._count

    def _accept(self, most_bytes: int) -> None:
        """Have the kernel keep so much of each packet; of none with 0."""
        program = ctypes.create_string_buffer(
            struct.pack("=HBBI", _BPF_RETURN, 0, 0, most_bytes), 8
        )
        filter_ = struct.pack("@HP", 1, ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)

    def _wait(self, poll: select.poll) -> str:
        """Until there is a block, or a while; says why the capture is over if it is."""
        for fd, events in poll.poll(POLL_MS):
            if fd != self._socket.fileno():
                return "its cluster ended"
            if events & select.POLLERR:
                self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # clears it
                if not self._socket.getsockname()[0]:
                    return f"the interface {self.interface} is gone"
        return ""

    def _take_block(self) -> bool:
        """Write the next block's packets, if the kernel has handed it over."""
        start = self._block * BLOCK_BYTES
        if not _u32(self._ring, start + _STATUS_AT) & _TO_USER:
            return False
        at = start + _u32(self._ring, start + _FIRST_AT)
        with memoryview(self._ring) as ring:
            for _ in range(_u32(self._ring, start + _PACKETS_AT)):
                if self._full:
                    break
                ahead, second, nanosecond, kept, length, _status, mac, kind = _PACKET.unpack_from(
                    ring, at
                )
                data = ring[at + mac : at + mac + kept]
                self._file.packet(
                    second * 10**9 + nanosecond, data, length, outgoing=kind == _OUTGOING
                )
                data.release()
                self._packets += 1
                self._cut += kept < length
                at += ahead
        self._file.flush()
        struct.pack_into("=I", self._ring, start + _STATUS_AT, 0)
        self._block = (self._block + 1) % BLOCKS
        return True

    def _finish(self, why: str) -> CaptureEnd:
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)
        self._dropped = struct.unpack("=III", statistics)[1]
        self._file.end(time.time_ns(), self._packets + self._dropped, self._dropped)
        return CaptureEnd(self.path, self._packets, self._dropped, self._cut, why)


def _u32(ring: mmap.mmap, at: int) -> int:
    value: int = struct.unpack_from("=I", ring, at)[0]
    return value


def packet_socket(netns_fd: int) -> PacketSocket:
    """A socket of that namespace; EnvironmentUnfit if the kernel refuses it."""
    with joined(netns_fd):
        known = sorted(name for _, name in socket.if_nameindex())
        try:
            return PacketSocket(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0), known)
        except PermissionError as error:
            raise EnvironmentUnfit(
                "a packet socket was refused; capture from inside the cluster's own namespaces"
            ) from error


def _ring(sock: socket.socket) -> mmap.mmap:
    frame_bytes = 1 << 11  # of no meaning with blocks, but the product must be right
    request = (
        BLOCK_BYTES, BLOCKS, frame_bytes, BLOCKS * BLOCK_BYTES // frame_bytes, RETIRE_MS, 0, 0,
    )  # fmt: skip
    try:
        sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, struct.pack("=7I", *request))
        return mmap.mmap(sock.fileno(), BLOCKS * BLOCK_BYTES)
    except OSError as error:
        raise EnvironmentUnfit(
            f"the kernel gives no ring of {BLOCKS * BLOCK_BYTES >> 20} MiB for packets ({error}); "
            "free memory and start again"
        ) from error


def _opened(path: str) -> int:
    if path == "-":
        return 1
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error

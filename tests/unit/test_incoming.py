"""How much of a payload is read at a time, by how fast the last one came."""

import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from engines.errors import TransferError
from engines.real.frames import HEADER_BYTES, Header, Kind, Order, pack
from engines.real.incoming import FAST_BATCH_BYTES, READ_BATCH_BYTES, Incoming

SIZE = READ_BATCH_BYTES
PAYLOAD = os.urandom(SIZE)


class Stream(Incoming):
    """Frames whose payloads go into one place; the test reads for the loop."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock
        self.place = bytearray(SIZE)
        self.arrived: list[bytes] = []
        self.refused: list[TransferError] = []

    def _check(self, header: Header) -> None:
        assert header.payload_bytes == SIZE

    def _take(self, header: Header, note: memoryview) -> None:
        self._fill(memoryview(self.place))

    def _arrived(self, payload: memoryview) -> None:
        self.arrived.append(bytes(payload))

    def _refuse(self, error: TransferError) -> None:
        self.refused.append(error)

    def read(self, most: int = SIZE) -> None:
        """One turn of the loop."""
        buffer = memoryview(self.get_buffer(-1))[:most]
        count = self._socket.recv_into(buffer)
        self.buffer_updated(count)

    @property
    def wakes_at(self) -> int:
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def header(payload_bytes: int) -> bytes:
    return pack(Kind.WRITE, 0, Order.BLOCKS, 1, 1, -1, 0, 0, 0, 0, payload_bytes)


@pytest.fixture
def ends() -> Iterator[tuple[Stream, socket.socket]]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * SIZE)
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    receiver.setblocking(False)
    with listener, sender, receiver:
        yield Stream(receiver), sender


def send(stream: Stream, sender: socket.socket, data: bytes) -> None:
    """Send, and wait until the receiver's kernel has it all."""
    sender.sendall(data)
    peek = bytearray(len(data))
    receiver = stream._socket
    receiver.setblocking(True)
    receiver.recv_into(peek, len(data), socket.MSG_PEEK | socket.MSG_WAITALL)
    receiver.setblocking(False)


def begin(stream: Stream, sender: socket.socket) -> None:
    """A payload is announced, and nothing of it is here."""
    send(stream, sender, header(SIZE))
    stream.read(HEADER_BYTES)
    assert stream._sink is not None


def finish(stream: Stream, sender: socket.socket, took_s: float) -> None:
    """It comes, and took so long."""
    send(stream, sender, PAYLOAD)
    stream._sink_since_s = time.monotonic() - took_s
    while stream._sink is not None:
        stream.read()
    assert stream.arrived.pop() == PAYLOAD


def test_behind_a_fast_payload_all_that_is_there_is_read_at_once(
    ends: tuple[Stream, socket.socket],
) -> None:
    stream, sender = ends
    begin(stream, sender)
    finish(stream, sender, took_s=0.0)
    begin(stream, sender)
    send(stream, sender, PAYLOAD[: SIZE // 2])
    stream.read(1000)
    assert stream._filled == SIZE // 2
    assert stream.wakes_at == FAST_BATCH_BYTES
    send(stream, sender, PAYLOAD[SIZE // 2 :])
    stream.read(1000)
    assert stream.arrived == [PAYLOAD]
    assert stream.wakes_at == 1


def test_behind_a_slow_payload_the_kernel_gathers_the_next(
    ends: tuple[Stream, socket.socket],
) -> None:
    stream, sender = ends
    begin(stream, sender)
    finish(stream, sender, took_s=1.0)
    begin(stream, sender)
    send(stream, sender, PAYLOAD[: SIZE // 2])
    stream.read(1000)
    assert stream._filled == 1000
    assert stream.wakes_at == SIZE - 1000


@pytest.mark.parametrize("broken", [False, True])
def test_the_end_of_a_fast_stream_is_left_to_the_loop(
    ends: tuple[Stream, socket.socket], broken: bool
) -> None:
    stream, sender = ends
    begin(stream, sender)
    finish(stream, sender, took_s=0.0)
    begin(stream, sender)
    send(stream, sender, PAYLOAD[:5000])
    if broken:  # a reset
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    taken = stream._socket.recv_into(memoryview(stream.get_buffer(-1))[:1000])
    sender.close()
    stream.buffer_updated(taken)
    assert stream._filled == 5000
    assert stream.refused == []
    assert stream._socket.recv(1) == b""

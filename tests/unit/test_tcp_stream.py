"""A connection reads the same frames however the stream is cut into pieces."""

import asyncio
import socket
from typing import cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tcp_hosts import HELLO, ONE_ROW, bell, filled, frame, pair

from engines.kv import Span
from engines.messages import Start
from engines.real import frames
from engines.real.connection import Connection
from engines.real.frames import Kind
from engines.real.incoming import LARGE_BYTES, SCRATCH_BYTES
from engines.seams.transport import TrafficClass

# The first is large: what follows it is read header by header.
WHOLE, LAYER = Span("hbm", 128, 0, 896, 0, 4), Span("hbm", 1280, 0, 256, 1, 2)


class Wire:
    """The sending half of a socket that keeps what is written."""

    def __init__(self) -> None:
        self.sent = b""
        self.woken_at = 1

    def get_extra_info(self, name: str) -> "Wire":
        return self

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.woken_at = value

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0

    def abort(self) -> None:
        raise AssertionError("the stream was refused")


def stream(padding: int) -> tuple[bytes, bytes, bytes]:
    """Whole blocks, a long message, one layer, a message; and the two payloads."""
    rng = np.random.default_rng(padding)
    whole, layer = rng.bytes(14 * 1280), rng.bytes(4 * 320)
    long = Start(1 << 40)
    note = frames.encode(long)
    return (
        HELLO
        + frame(Kind.WRITE, bell(WHOLE), sequence=2, order=1, payload_bytes=len(whole))
        + whole
        + b"".join(frame(Kind.MESSAGE, note, sequence=3 + i) for i in range(padding))
        + frame(Kind.WRITE, bell(LAYER), sequence=3 + padding, payload_bytes=len(layer))
        + layer
        + frame(Kind.MESSAGE, note, sequence=4 + padding),
        whole,
        layer,
    )


@settings(deadline=None)
@given(st.integers(0, 1200), st.lists(st.integers(1, 3000), min_size=1, max_size=50))
def test_any_cut_of_the_stream_gives_the_same_result(padding: int, cuts: list[int]) -> None:
    asyncio.run(receive_cut(padding, cuts))


async def receive_cut(padding: int, cuts: list[int]) -> None:
    host, _ = pair(port_base=9000)
    pool = filled("hbm", ONE_ROW, 32, 1)
    host.register(pool)
    connection, wire = Connection(host, TrafficClass.KV), Wire()
    connection.connection_made(cast(asyncio.Transport, wire))
    data, whole, layer = stream(padding)
    places = [(data.index(payload), len(payload)) for payload in (whole, layer)]
    at = step = 0
    while at < len(data):
        size = cuts[step % len(cuts)] if step < 2000 else SCRATCH_BYTES
        target = connection.get_buffer(-1)
        taken = min(size, len(target), len(data) - at)
        assert taken > 0
        target[:taken] = data[at : at + taken]
        connection.buffer_updated(taken)
        at, step = at + taken, step + 1
        # Waiting for more than the payload still brings would wait for ever.
        assert wire.woken_at == 1 or any(
            first < at <= first + length - wire.woken_at for first, length in places
        )
    assert wire.woken_at == 1
    assert len(whole) >= LARGE_BYTES and not wire.sent  # acknowledged at the turn's end
    await asyncio.sleep(0)
    assert host.account()["undelivered"] == padding + 3
    assert len(wire.sent) == 2 * (frames.HEADER_BYTES + 8)
    assert pool.array[2:16].tobytes() == whole
    assert pool.array[20:24, 1].tobytes() == layer


def test_a_write_right_before_the_goodbye_is_acknowledged() -> None:
    asyncio.run(receive_a_write_and_a_goodbye())


async def receive_a_write_and_a_goodbye() -> None:
    host, _ = pair(port_base=9000)
    host.register(filled("hbm", ONE_ROW, 32, 1))
    connection, wire = Connection(host, TrafficClass.KV), Wire()
    connection.connection_made(cast(asyncio.Transport, wire))
    payload = bytes(4 * 320)
    data = (
        HELLO
        + frame(Kind.WRITE, bell(LAYER), sequence=2, payload_bytes=len(payload))
        + payload
        + frame(Kind.CLOSING, sequence=3)
    )
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))
    ack = frames.unpack(wire.sent)
    assert (ack.kind, ack.sequence) == (Kind.ACK, 2)
    assert not connection.usable

"""Two hosts on loopback, and raw frames to speak to them, for the transport's tests."""

import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.abc
import msgspec
import numpy as np

from engines.kv import Span
from engines.layout import KvLayout
from engines.messages import ReadDone
from engines.real import frames
from engines.real.clock import RealClock
from engines.real.frames import Header, Kind
from engines.real.pool import KvPool
from engines.real.tcp import TcpConfig, TcpTransport

ONE_ROW = KvLayout(token_scale=64, block_tokens=64, layers=4, width=80)
FOUR_ROWS = KvLayout(token_scale=16, block_tokens=64, layers=3, width=8)
RUN, EPOCH = 77, 3


class CountingKeys:
    """Block i of any prompt has key 1000 + i."""

    def keys(self, content: bytes, first_block: int, count: int) -> Sequence[int]:
        return range(1000 + first_block, 1000 + first_block + count)


def run(main: Callable[[], Awaitable[None]], *, uvloop: bool = True) -> None:
    async def bounded() -> None:
        with anyio.fail_after(20):
            await main()

    anyio.run(bounded, backend_options={"use_uvloop": uvloop})


def free_ports() -> int:
    """The first of three free ports below the ephemeral range."""
    for base in range(10_000 + os.getpid() % 1000 * 20, 32_000, 3):
        try:
            for port in range(base, base + 3):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("", port))
        except OSError:
            continue
        return base
    raise RuntimeError("no free ports")


def pair(**changes: object) -> tuple[TcpTransport, TcpTransport]:
    """Hosts "a" and "b" that share the compute and management networks."""
    clock = RealClock(time.monotonic(), 1.0)
    directory = {
        "a": {"mgmt": "127.0.0.1", "compute": "127.0.0.3"},
        "b": {"mgmt": "127.0.0.2", "compute": "127.0.0.4"},
    }
    changes = {"port_base": free_ports(), "close_deadline_s": 2.0} | changes
    base = msgspec.structs.replace(TcpConfig("a", RUN, EPOCH, directory), **changes)
    other = msgspec.structs.replace(base, host="b")
    return TcpTransport(base, clock, CountingKeys()), TcpTransport(other, clock, CountingKeys())


def filled(name: str, layout: KvLayout, blocks: int, seed: int) -> KvPool:
    pool = KvPool(name, layout, blocks * layout.block_tokens)
    pool.array[:] = np.random.default_rng(seed).standard_normal(pool.array.shape, dtype=np.float32)
    return pool


def frame(kind: Kind, note: bytes = b"", /, **changes: int) -> bytes:
    fields = {
        "kind": kind, "traffic_class": 1, "order": 0, "run_id": RUN, "epoch": EPOCH, "request": 1,
        "layer": -1, "sent_ns": 0, "sequence": 1, "note_bytes": len(note), "payload_bytes": 0,
    } | changes  # fmt: skip
    return frames.pack(*Header(**fields)) + note


HELLO = frame(Kind.HELLO, frames.encode(frames.Hello("b")))


def bell(span: Span) -> bytes:
    return frames.encode(frames.Doorbell(ReadDone(1, span), span))


async def dial(host: TcpTransport, data: bytes) -> anyio.abc.SocketStream:
    """Speak raw bytes to the KV port of host "a"."""
    stream = await anyio.connect_tcp("127.0.0.3", host._config.port_base + 1)
    await stream.send(data)
    return stream

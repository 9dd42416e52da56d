"""Host processes of `scripts/bench fabric`: the real transport, sending, receiving, answering."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio
import msgspec

from engines.errors import TransferError
from engines.kv import Span
from engines.layout import KvLayout
from engines.messages import Admit, ReadDone
from engines.real.clock import RealClock
from engines.real.pool import KvPool
from engines.real.routes import TcpConfig
from engines.real.tcp import TcpTransport
from engines.seams.transport import Delivery, TrafficClass, Write

POOL_BYTES = 64 << 20
LIST_BYTES = 4 << 20  # of one call of `write`; two are under way, so that one always can be sent
IN_FLIGHT = 2
MESSAGE_BYTES = 4096
DEADLINE_S = 60.0
TOKENS = 64  # of a block: each piece is a Full Block of one row
Part = Callable[["Host"], Coroutine[Any, Any, None]]


class Sent(msgspec.Struct, frozen=True):
    """What a sender's account says in the end: payload, and all bytes of its KV connections.

    Of each message that came back: how long it took, and how long the network had it both ways.
    """

    payload_bytes: int
    kv_bytes: int
    round_trips_s: list[float]
    networks_s: list[float]


class _Keys:
    """Nothing is sealed here."""

    def keys(self, content: bytes, first_block: int, count: int) -> Sequence[int]:
        raise NotImplementedError


def layout(piece_bytes: int) -> KvLayout:
    """Blocks of `piece_bytes`: one row, four layers."""
    return KvLayout(token_scale=TOKENS, block_tokens=TOKENS, layers=4, width=piece_bytes // 16)


class Host:
    """A transport and a pool; `play` ends when the lab closes its end of `control`."""

    def __init__(
        self,
        name: str,
        addresses: dict[str, str],
        port_base: int,
        piece_bytes: int,
        control: socket.socket,
    ) -> None:
        directory = {host: {"storage": address} for host, address in addresses.items()}
        config = TcpConfig(name, 1, 1, directory, port_base, deadline_s=DEADLINE_S)
        self.transport = TcpTransport(config, RealClock(time.monotonic(), 1.0), _Keys())
        blocks = max(1, POOL_BYTES // piece_bytes)
        self.pool = KvPool("kv", layout(piece_bytes), blocks * TOKENS)
        self.transport.register(self.pool)
        self.round_trips_s: list[float] = []
        self.networks_s: list[float] = []
        self._control = control
        self._answer: asyncio.Future[None] | None = None
        self._sent_s = 0.0
        self._ended = False

    def play(self, part: Part) -> None:
        """Run it, and account for it in the end."""
        anyio.run(self._play, part, backend="asyncio", backend_options={"use_uvloop": True})

    async def _play(self, part: Part) -> None:
        async with anyio.create_task_group() as crew:
            crew.start_soon(part, self)
            self._control.setblocking(False)
            await asyncio.get_running_loop().sock_recv(self._control, 1)
            self._ended = True
            crew.cancel_scope.cancel()
        counts = self.transport.account()
        sent = Sent(counts["payload_bytes"], counts["bytes_sent_kv"], self.round_trips_s,
                    self.networks_s)  # fmt: skip
        self._control.setblocking(True)
        self._control.sendall(msgspec.json.encode(sent))

    async def listen(self) -> None:
        """Open the ports and say so; only then may others dial."""
        await self.transport.start()
        self._control.sendall(b"R")

    async def receive(self) -> None:
        """Take what comes; a MODEL message is answered with one as long.

        The answer's number says how many nanoseconds the network had the message.
        """
        self.transport.quiesce()  # senders end first, in the middle of something
        await self.listen()
        await self.transport.serve(self._handle)

    def _handle(self, delivery: Delivery) -> None:
        if isinstance(delivery.message, Admit):
            answer = Admit(round(delivery.network_s * 1e9), delivery.message.content)
            self.transport.post(delivery.sender, answer, TrafficClass.MODEL)

    async def send(self, *peers: str) -> None:
        """Write the pool into each peer's, piece by piece, over and over: a connection a peer."""
        self._control.sendall(b"R")
        async with anyio.create_task_group() as crew:
            for peer in peers:
                crew.start_soon(self._send_to, peer)

    async def _send_to(self, peer: str) -> None:
        blocks = self.pool.blocks
        per_list = max(1, min(LIST_BYTES // self.pool.layout.block_bytes, blocks // IN_FLIGHT))
        lists = [
            [self._piece(number) for number in range(first, min(first + per_list, blocks))]
            for first in range(0, blocks, per_list)
        ]
        async with anyio.create_task_group() as crew:
            for lane in range(IN_FLIGHT):
                crew.start_soon(self._send_lists, peer, lists[lane::IN_FLIGHT])

    def _piece(self, number: int) -> Write:
        layers = self.pool.layout.layers
        span = Span("kv", number * TOKENS, 0, TOKENS, 0, layers)
        return Write(span, span, ReadDone(number, span), number)

    async def _send_lists(self, peer: str, lists: Sequence[Sequence[Write]]) -> None:
        while True:
            for writes in lists:
                try:
                    await self.transport.write(peer, writes, deadline_s=DEADLINE_S)
                except TransferError:
                    if not self._ended:
                        raise
                    return  # the other lane was given up first, and cut the connection of both

    async def ping(self, peer: str, every_s: float) -> None:
        """One MODEL message after the other, and how long each took there and back."""
        await self.listen()
        async with anyio.create_task_group() as crew:
            crew.start_soon(self.transport.serve, self._answered)
            message, number = bytes(MESSAGE_BYTES), 0
            due_s = time.monotonic()
            while True:
                number += 1
                self._answer = asyncio.get_running_loop().create_future()
                self._sent_s = time.monotonic()
                self.transport.post(peer, Admit(number, message), TrafficClass.MODEL)
                await self._answer
                due_s = max(due_s + every_s, time.monotonic())
                await anyio.sleep(max(0.0, due_s - time.monotonic()))

    def _answered(self, delivery: Delivery) -> None:
        took_s = time.monotonic() - self._sent_s
        if not isinstance(delivery.message, Admit):
            return
        if self._answer is not None and not self._answer.done():
            self.round_trips_s.append(took_s)
            self.networks_s.append(delivery.message.request / 1e9 + delivery.network_s)
            self._answer.set_result(None)


def become(command: list[str]) -> None:
    """Be another program from here on, quietly."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.execv(command[0], command)

"""The real transport: RDMA-shaped writes and messages over TCP, one connection a peer and class.

Each class has its port and its DSCP mark in both directions, so that links can tell them apart.
Everything runs in the loop's thread; data may overtake control messages.
"""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import anyio

from engines.errors import DeadlineExceeded, TransferError
from engines.kv import Span
from engines.messages import Message
from engines.real import frames, sockets
from engines.real.clock import RealClock
from engines.real.connection import Connection
from engines.real.digests import BlockKeys
from engines.real.frames import CLASSES
from engines.real.held import Held, Line
from engines.real.inbox import Inbox
from engines.real.links import Link, Prepared
from engines.real.pool import KvPool
from engines.real.regions import Regions
from engines.real.routes import TcpConfig
from engines.seams.transport import Delivery, TrafficClass, Write
from engines.tally import PeerTally, Tally

__all__ = ["TcpConfig", "TcpTransport"]

T = TypeVar("T")
COUNTS = (
    "connections", "frames_sent", "frames_received", "messages", "undeliverable", "writes", "acks",
    "payload_bytes", *(f"bytes_sent_{name}" for name in CLASSES),
)  # fmt: skip
RETRY_S = 0.02


class TcpTransport:
    """Implements the seam `Transport`; use as `async with`, or call `start` and `close`.

    Left by an exception, `async with` aborts, so that peers see a failure and no goodbye.
    """

    def __init__(self, config: TcpConfig, clock: RealClock, keys: BlockKeys) -> None:
        if config.host not in config.directory:
            raise TransferError(f"host {config.host!r} is not in its own directory")
        self.host = config.host
        self.run_id = config.run_id
        self.epoch = config.epoch
        self.counts = dict.fromkeys(COUNTS, 0)
        self._config = config
        self._clock = clock
        self.regions = Regions(config.host, keys, config.verify)
        self._links: dict[tuple[str, TrafficClass], Link] = {}
        self._tallies: dict[tuple[str, TrafficClass], Tally] = {}
        self._accepted: set[Connection] = set()
        self._servers: list[sockets.Server] = []
        self._inbox = Inbox(config.host, config.inbox_limit)
        self._departed: set[str] = set()
        self._held = Held(clock)
        self._quiet = self._closing = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            return self.abort()
        with anyio.CancelScope(shield=True):
            await self.close()

    async def start(self) -> None:
        """Listen on every address of this host for the classes that are routed to it."""
        await sockets.listen(self, self._config, self._servers, self._accepted.add)

    def register(self, pool: KvPool) -> None:
        """Let peers write into this region, and our writes read from it."""
        self.regions.register(pool)

    async def write(self, peer: str, writes: Sequence[Write], *, deadline_s: float) -> float:
        """Move spans of one class; returns the target time at which the peer had them in place.

        Raises DeadlineExceeded or TransferError. Writes that are given up, by their deadline or by
        cancellation, take their connection along: nothing of them leaves this host any more.
        """
        prepared = [Prepared(write, *self.regions.payload(write)) for write in writes]
        with self._clock.deadline(
            deadline_s, f"{self.host}'s write for request {writes[0].request} to {peer}"
        ):
            connection, under_way = await self._emit(
                peer,
                writes[0].traffic_class,
                lambda c: (
                    c,
                    [
                        c.write(p.note, p.write.request, p.layer, p.payload, p.order)
                        for p in prepared
                    ],
                ),
            )
            try:
                return max([await arrival for _, arrival in under_way])
            finally:
                for sequence, _ in under_way:
                    connection.abandon(sequence)

    def post(
        self, peer: str, message: Message, traffic_class: TrafficClass = TrafficClass.CTRL
    ) -> None:
        """Send a message, at once or as soon as there is a connection that takes it.

        A message to a peer that said goodbye is dropped and counted (`undeliverable`).
        """
        note, request = frames.encode(message), frames.request_of(message)
        if len(note) > frames.NOTE_LIMIT_BYTES:
            raise TransferError(
                f"a {type(message).__name__} of {len(note)} bytes for {peer} is over the limit "
                f"of {frames.NOTE_LIMIT_BYTES}; send KV as a write"
            )
        if self._closing:
            raise TransferError(f"{self.host} is closed and cannot reach {peer} any more")
        if peer in self._departed:
            self.counts["undeliverable"] += 1
            return
        link = self._link(peer, traffic_class)
        if (connection := link.ready) is not None:
            return connection.message(note, request)
        link.posted.append((note, request))
        if link.posting is None:
            link.posting = asyncio.get_running_loop().create_task(
                self._post_queued(peer, traffic_class, link)
            )

    async def serve(self, handle: Callable[[Delivery], None]) -> None:
        """Hand over messages and doorbells in order of arrival; TransferError after a failure."""
        while True:
            handle(await self.receive())

    async def receive(self) -> Delivery:
        """The next message or doorbell, in order of arrival; TransferError after a failure."""
        return await self._inbox.take()

    def copy(self, source: Span, target: Span) -> None:
        """Copy whole Full Blocks between regions of this host."""
        self.regions.copy(source, target)

    def seal(self, span: Span, content: bytes, first_block: int) -> bytes:
        """Digests, 8 bytes a block, of whole blocks: each binds the block's key and its bytes."""
        return self.regions.seal(span, content, first_block)

    def check(self, span: Span, content: bytes, first_block: int, digests: bytes) -> None:
        """Raise KvDigestMismatch, naming the block, unless `seal` would give `digests`."""
        self.regions.check(span, content, first_block, digests)

    def account(self) -> dict[str, int]:
        """Frames, writes, acks, payload bytes, bytes sent by class, and what is still open.

        `held` things waited for a due time, together `held_late_us` target microseconds too long.
        """
        held = {"held": self._held.count, "held_late_us": round(self._held.late_s * 1e6)}
        return {**self.counts, "undelivered": len(self._inbox), **held}

    def tallies(self) -> list[PeerTally]:
        """Bytes by peer and class; a write is whole on both sides once it is acknowledged."""
        return [PeerTally(*whom, moved) for whom, moved in self._tallies.items()]

    def quiesce(self) -> None:
        """From here on a lost connection is no error: the run is over and peers leave."""
        self._quiet = True

    async def close(self) -> None:
        """Flush, say goodbye on every connection, and hang up; by `close_deadline_s` by force."""
        self._quiet = True
        try:
            with self._clock.deadline(self._config.close_deadline_s, f"{self.host} flushing"):
                for posting in self._posting():
                    await posting
        except DeadlineExceeded:  # awaiting a task that is given up cancels it
            pass
        self._closing = True
        for server in self._servers:
            server.close()
        await self._hang_up(self._dialled())
        await self._hang_up(list(self._accepted))
        self._held.close()

    def abort(self) -> None:
        """Hang up without a goodbye: this host fails, and its peers shall notice."""
        self._quiet = self._closing = True
        for server in self._servers:
            server.close()
        for posting in self._posting():
            posting.cancel()
        for connection in [*self._dialled(), *self._accepted]:
            connection.abort()
        self._held.close()

    # What connections ask of their host

    def greeted(self, peer: str) -> None:
        """A peer opened a connection; TransferError if the directory does not know it."""
        if peer not in self._config.directory:
            raise TransferError(f"{peer!r} is not in the directory of {self.host}")
        self._departed.discard(peer)

    def line(self, peer: str, traffic_class: TrafficClass) -> Line | None:
        """Where what comes from a peer is held; control crosses no link that has a delay."""
        delay_s = self._config.delays_s.get(peer, 0.0)
        if traffic_class is TrafficClass.CTRL or delay_s == 0:
            return None
        return Line(self._held, delay_s)

    def deliver(
        self, peer: str, message: Message, arrived_s: float | None = None, network_ns: int = 0
    ) -> float:
        """Queue a message for `receive`; returns the target time of its arrival (None: now)."""
        self._inbox.require_room()
        network_s = network_ns / 1e9 / self._config.time_scale
        if arrived_s is None:
            arrived_s = self._clock.now_s()
        else:  # it was held for the way's delay, which no link made
            network_s += self._config.delays_s.get(peer, 0.0)
        self._inbox.put(Delivery(peer, message, arrived_s, network_s))
        return arrived_s

    def parted(self, peer: str) -> None:
        """A peer said goodbye."""
        self._departed.add(peer)

    def tally(self, peer: str, traffic_class: TrafficClass) -> Tally:
        """Where the bytes of this peer and class are counted, over all their connections."""
        return self._tallies.setdefault((peer, traffic_class), Tally())

    def lost(self, connection: Connection, error: TransferError | None) -> None:
        """A connection is over; without a goodbye, `error` says so."""
        self._accepted.discard(connection)
        for link in self._links.values():
            if link.connection is connection:
                link.connection = None
        if error is not None and not self._quiet:
            self._inbox.put(error)

    # Connecting

    # Connecting

    def _link(self, peer: str, traffic_class: TrafficClass) -> Link:
        return self._links.setdefault((peer, traffic_class), Link())

    async def _post_queued(self, peer: str, traffic_class: TrafficClass, link: Link) -> None:
        """Send what could not leave at once; a failure surfaces where messages are received."""

        def emit(connection: Connection) -> None:
            while link.posted and not connection.stalled:
                connection.message(*link.posted.popleft())

        try:
            while link.posted:
                await self._emit(peer, traffic_class, emit)
        except Exception as error:  # nobody waits for this task
            link.posted.clear()
            if not self._quiet:
                surfaced = TransferError(f"{self.host} to {peer}: {error}")
                surfaced.__cause__ = error
                self._inbox.put(surfaced)
        finally:
            link.posting = None

    async def _emit(
        self, peer: str, traffic_class: TrafficClass, emit: Callable[[Connection], T]
    ) -> T:
        link = self._link(peer, traffic_class)
        if (connection := link.ready) is not None:
            return emit(connection)
        what = f"{self.host} waiting for {peer} to take class {traffic_class}"
        with self._clock.deadline(self._config.deadline_s, what):
            async with link.lock:
                connection = link.connection
                if connection is None or not connection.usable:
                    connection = link.connection = await self._dial(peer, traffic_class)
                await connection.writable()
                return emit(connection)

    async def _dial(self, peer: str, traffic_class: TrafficClass) -> Connection:
        """Connect, again and again while the peer does not listen; callers have a deadline."""
        if self._closing:
            raise TransferError(f"{self.host} is closed and cannot reach {peer} any more")
        if peer in self._departed:
            raise TransferError(f"{peer} has left the run; {self.host} cannot reach it any more")
        while True:
            try:
                return await sockets.connect(self, self._config, peer, traffic_class)
            except OSError:  # it starts later, or its link is down for now
                await self._clock.sleep_until_s(self._clock.now_s() + RETRY_S)

    def _dialled(self) -> list[Connection]:
        return [link.connection for link in self._links.values() if link.connection]

    def _posting(self) -> list[asyncio.Task[None]]:
        return [link.posting for link in self._links.values() if link.posting]

    async def _hang_up(self, connections: list[Connection]) -> None:
        for connection in connections:
            connection.end()
        try:
            with self._clock.deadline(self._config.close_deadline_s, f"{self.host} hanging up"):
                for connection in connections:
                    await connection.closed.wait()
        except DeadlineExceeded:  # a frozen peer must not hold up our end
            for connection in connections:
                connection.abort()

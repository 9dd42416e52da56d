"""The real transport: RDMA-shaped writes and messages over TCP, one connection a peer and class.

Each class has its port and its DSCP mark in both directions, so that links can tell them apart.
Everything runs in the loop's thread; data may overtake control messages.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import anyio
import numpy as np

from engines.errors import DeadlineExceeded, KvDigestMismatch, TransferError
from engines.kv import Span
from engines.messages import Message
from engines.real import frames, routes
from engines.real.clock import RealClock
from engines.real.connection import Connection
from engines.real.digests import BlockKeys, digest_blocks, first_difference
from engines.real.frames import CLASSES, Order
from engines.real.held import Held, Line
from engines.real.links import Link, Prepared
from engines.real.pool import KvPool
from engines.real.routes import TcpConfig
from engines.real.stamped import StampedConnection, StampedServer, StampedTransport, prepare
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
        self._keys = keys
        self._pools: dict[str, KvPool] = {}
        self._links: dict[tuple[str, TrafficClass], Link] = {}
        self._tallies: dict[tuple[str, TrafficClass], Tally] = {}
        self._accepted: set[Connection] = set()
        self._servers: list[asyncio.Server | StampedServer] = []
        self._inbox: deque[Delivery | TransferError] = deque()
        self._waiting: list[asyncio.Future[None]] = []
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
        loop = asyncio.get_running_loop()
        for traffic_class in CLASSES:
            for address, port in sorted(routes.listening(self._config, traffic_class)):
                listener = routes.class_socket(self._config, traffic_class)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    listener.bind((address, port))
                    server: asyncio.Server | StampedServer
                    if traffic_class is TrafficClass.MODEL:
                        server = StampedServer(listener, self._accept_stamped)
                    else:
                        accept = self._accepting(traffic_class)
                        server = await loop.create_server(accept, sock=listener)
                except OSError as error:
                    listener.close()
                    raise TransferError(
                        f"{self.host} cannot listen on {address}:{port} ({error}); "
                        "choose another port base or end the run that holds it"
                    ) from error
                self._servers.append(server)

    def register(self, pool: KvPool) -> None:
        """Let peers write into this region, and our writes read from it."""
        if pool.name in self._pools:
            raise TransferError(f"region {pool.name!r} is registered twice on {self.host}")
        self._pools[pool.name] = pool

    async def write(self, peer: str, writes: Sequence[Write], *, deadline_s: float) -> float:
        """Move spans of one class; returns the target time at which the peer had them in place.

        Raises DeadlineExceeded or TransferError. Writes that are given up, by their deadline or by
        cancellation, take their connection along: nothing of them leaves this host any more.
        """
        prepared = [Prepared(write, *self._payload(write)) for write in writes]
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
        while not self._inbox:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        item = self._inbox.popleft()
        if isinstance(item, TransferError):
            raise item
        return item

    def copy(self, source: Span, target: Span) -> None:
        """Copy whole Full Blocks between regions of this host."""
        into, of = self.pool(target.region).view(target), self.pool(source.region).view(source)
        if into is None or of is None or len(into) != len(of):
            raise TransferError(
                f"{source} and {target} are not the same number of whole Full Blocks; "
                "only these are copied within a host"
            )
        into[:] = of

    def seal(self, span: Span, content: bytes, first_block: int) -> bytes:
        """Digests, 8 bytes a block, of whole blocks: each binds the block's key and its bytes."""
        pool = self.pool(span.region)
        view = pool.view(span) if span.last > span.first else memoryview(b"")
        if view is None:
            raise TransferError(f"{span} is not whole Full Blocks; only these have digests")
        size = pool.layout.block_bytes
        keys = self._keys.keys(content, first_block, len(view) // size)
        return digest_blocks(view, size, keys)

    def check(self, span: Span, content: bytes, first_block: int, digests: bytes) -> None:
        """Raise KvDigestMismatch, naming the block, unless `seal` would give `digests`."""
        if not self._config.verify:
            return
        found = self.seal(span, content, first_block)
        if found == digests:
            return
        if len(found) != len(digests):
            raise KvDigestMismatch(
                f"{len(digests)} bytes of digests came for {len(found) // 8} blocks of {span}"
            )
        block = first_block + first_difference(found, digests)
        raise KvDigestMismatch(
            f"block {block} of the prompt, in region {span.region!r} of {self.host}, is not what "
            "its key and digest say; it was corrupted or put in the wrong place"
        )

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

    def pool(self, region: str) -> KvPool:
        """The registered region; TransferError if there is none of that name."""
        try:
            return self._pools[region]
        except KeyError:
            raise TransferError(
                f"{self.host} has no region {region!r}, only {sorted(self._pools)}"
            ) from None

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
        if len(self._inbox) >= self._config.inbox_limit:
            raise TransferError(
                f"{len(self._inbox)} messages wait on {self.host} and nobody takes them; "
                "its engine hangs or is overloaded"
            )
        network_s = network_ns / 1e9 / self._config.time_scale
        if arrived_s is None:
            arrived_s = self._clock.now_s()
        else:  # it was held for the way's delay, which no link made
            network_s += self._config.delays_s.get(peer, 0.0)
        self._queue(Delivery(peer, message, arrived_s, network_s))
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
            self._queue(error)

    def _queue(self, item: Delivery | TransferError) -> None:
        self._inbox.append(item)
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    # Connecting

    def _payload(self, write: Write) -> tuple[memoryview | bytes, Order]:
        source, target = write.source, write.target
        pool = self.pool(source.region)
        layout = pool.layout
        for span in (source, target):
            frames.check_span(layout, span)
        size = layout.span_bytes(source)
        if size != layout.span_bytes(target):
            raise TransferError(
                f"write of request {write.request}: {source} holds {size} bytes, {target} "
                f"{layout.span_bytes(target)}; spans must cover the same tokens and layers"
            )
        if size == 0:
            return b"", Order.ROWS
        blocks_here = frames.in_place(layout, source)
        if frames.in_place(layout, target) and (blocks_here or layout.rows_per_block == 1):
            return pool.gather(source), Order.BLOCKS
        data = pool.gather(source)
        if blocks_here and layout.rows_per_block > 1:
            shape = (-1, layout.layers, layout.rows_per_block, layout.width)
            blocks = np.frombuffer(data, dtype=np.float32).reshape(shape)
            data = np.ascontiguousarray(blocks.swapaxes(1, 2)).data.cast("B")
        return data, Order.ROWS

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
                self._queue(surfaced)
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
        here, there = routes.route(self._config, peer, traffic_class)
        while True:
            try:
                return await self._connect(peer, traffic_class, here, there)
            except OSError:  # it starts later, or its link is down for now
                await self._clock.sleep_until_s(self._clock.now_s() + RETRY_S)

    async def _connect(
        self, peer: str, traffic_class: TrafficClass, here: str, there: tuple[str, int]
    ) -> Connection:
        loop = asyncio.get_running_loop()
        sock = routes.class_socket(self._config, traffic_class)
        try:
            if traffic_class is TrafficClass.MODEL:
                prepare(sock)
            try:
                sock.bind((here, 0))
            except OSError as error:
                raise TransferError(f"{self.host} has no address {here} ({error})") from error
            await loop.sock_connect(sock, there)
            connection: Connection
            if traffic_class is TrafficClass.MODEL:
                connection = StampedConnection(self, traffic_class, peer)
                StampedTransport(sock, connection)
            else:
                _, connection = await loop.create_connection(
                    lambda: Connection(self, traffic_class, peer), sock=sock
                )
        except BaseException:
            sock.close()
            raise
        connection.hello()
        self.counts["connections"] += 1
        return connection

    def _accepting(self, traffic_class: TrafficClass) -> Callable[[], Connection]:
        def accept() -> Connection:
            connection = Connection(self, traffic_class)
            self._accepted.add(connection)
            return connection

        return accept

    def _accept_stamped(self) -> StampedConnection:
        connection = StampedConnection(self, TrafficClass.MODEL)
        self._accepted.add(connection)
        return connection

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

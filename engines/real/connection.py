"""One TCP connection of the transport: what its frames mean, and how it ends.

The dialler sends HELLO, WRITE, MESSAGE and CLOSING; the accepting host answers ACK and CLOSING.
"""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import anyio

from engines.errors import TransferError
from engines.messages import Message
from engines.real import frames
from engines.real.frames import ALL_LAYERS, CLASSES, HEADER_BYTES, Doorbell, Header, Kind, Order
from engines.real.host import Host
from engines.real.incoming import SCRATCH_BYTES, Incoming
from engines.real.owed import Owed
from engines.seams.transport import TrafficClass
from engines.tally import Tally

# Several layers' writes may queue before senders wait; each queued byte is only referenced.
WRITE_QUEUE_BYTES = 4 << 20
FROM_DIALLER = (Kind.HELLO, Kind.WRITE, Kind.MESSAGE, Kind.CLOSING)
FROM_ACCEPTOR = (Kind.ACK, Kind.CLOSING)


class Connection(Incoming):
    """A protocol of one peer and traffic class; `peer` is known from the start if we dial."""

    def __init__(self, host: Host, traffic_class: TrafficClass, peer: str = "") -> None:
        super().__init__()
        self._host = host
        self._class = traffic_class
        self._bytes_sent = f"bytes_sent_{traffic_class}"
        self._class_index = CLASSES.index(traffic_class)
        self._dialled = bool(peer)
        self.peer = peer
        self._sequence = 0  # of the last frame that the dialler sent, seen from either end
        self._tally = host.tally(peer, traffic_class) if peer else Tally()
        self._line = host.line(peer, traffic_class) if peer else None
        self._unacknowledged: dict[int, asyncio.Future[float]] = {}
        self._arriving: tuple[Header, Doorbell] | None = None  # the last write
        self._staging = memoryview(bytearray())  # for payloads that are scattered from there
        self._open = self._farewell = self._eof_seen = False
        self._fault: TransferError | None = None
        self._drained: anyio.Event | None = None
        self.closed = anyio.Event()

    # Sending

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport and bound its queue."""
        self._loop = asyncio.get_running_loop()
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_QUEUE_BYTES)
        self._socket = transport.get_extra_info("socket")
        self._owed = Owed(self._loop, self._send_owed)
        self._open = True

    def pause_writing(self) -> None:
        """The queue is long: senders wait."""
        self._drained = anyio.Event()

    def resume_writing(self) -> None:
        """The queue is short again."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    @property
    def usable(self) -> bool:
        """Whether frames can still leave."""
        return self._open and not self._farewell and not self._transport.is_closing()

    @property
    def stalled(self) -> bool:
        """Whether the peer takes less than we send."""
        return self._drained is not None

    async def writable(self) -> None:
        """Wait until the queue to the kernel is short again, or the connection is lost."""
        while self._drained is not None:
            await self._drained.wait()

    def hello(self) -> None:
        """Say who dials; before anything else."""
        self._emit(Kind.HELLO, frames.encode(frames.Hello(self._host.host)))

    def message(self, note: bytes, request: int) -> None:
        """Queue a plain message."""
        self._emit(Kind.MESSAGE, note, request)
        self._host.counts["messages"] += 1

    def write(
        self, note: bytes, request: int, layer: int, payload: memoryview | bytes, order: Order
    ) -> tuple[int, asyncio.Future[float]]:
        """Queue a write; the future brings its arrival time, the number serves `abandon`."""
        self._emit(Kind.WRITE, note, request, layer, payload, order)
        self._host.counts["writes"] += 1
        self._host.counts["payload_bytes"] += len(payload)
        future = self._loop.create_future()
        self._unacknowledged[self._sequence] = future
        return self._sequence, future

    def _emit(
        self,
        kind: Kind,
        note: bytes,
        request: int = -1,
        layer: int = ALL_LAYERS,
        payload: memoryview | bytes = b"",
        order: Order = Order.ROWS,
    ) -> None:
        if not self.usable:
            raise TransferError(f"connection {self} is lost; look for the end of its peer")
        if self._dialled:
            self._sequence += 1
        header = frames.pack(
            kind, self._class_index, order, self._host.run_id, self._host.epoch, request, layer,
            time.monotonic_ns(), self._sequence, len(note), len(payload),
        )  # fmt: skip
        if payload:
            self._transport.writelines((header, note, payload))
        else:
            self._transport.write(header + note)
        counts = self._host.counts
        size = HEADER_BYTES + len(note) + len(payload)
        counts["frames_sent"] += 1
        counts[self._bytes_sent] += size
        self._tally.sent_payload_bytes += len(payload)
        self._tally.sent_frame_bytes += size

    def _send_owed(self, acks: bytes, count: int) -> None:
        if self.usable:
            self._transport.write(acks)
            self._host.counts["frames_sent"] += count
            self._host.counts[self._bytes_sent] += len(acks)
            self._tally.sent_frame_bytes += len(acks)

    # Receiving

    def _check(self, header: Header) -> None:
        host = self._host
        if header.run_id != host.run_id:
            raise TransferError(
                f"frame of run {header.run_id} reached a host of run {host.run_id}; "
                "give the runs different addresses or port bases"
            )
        if header.epoch != host.epoch:
            raise TransferError(
                f"frame of epoch {header.epoch} reached epoch {host.epoch} of run {host.run_id}; "
                "a stale writer is fenced off"
            )
        if header.traffic_class != self._class_index:
            raise TransferError(
                f"frame of class {CLASSES[header.traffic_class]} came over the connection of "
                f"class {self._class}"
            )
        if header.kind not in (FROM_ACCEPTOR if self._dialled else FROM_DIALLER):
            raise TransferError(f"{Kind(header.kind).name} came from the wrong end")
        if not self.peer and header.kind != Kind.HELLO:
            raise TransferError(f"{Kind(header.kind).name} came before HELLO")
        if not self._dialled and header.sequence != self._sequence + 1:
            raise TransferError(f"frame {header.sequence} followed frame {self._sequence}")

    def _take(self, header: Header, note: memoryview) -> None:
        self._host.counts["frames_received"] += 1
        if not self._dialled:
            self._sequence = header.sequence
        match header.kind:
            case Kind.ACK:
                self._acknowledge(header, note)
            case Kind.MESSAGE:
                self._read_limit = SCRATCH_BYTES
                self._message(header, note)
            case Kind.WRITE:
                bell = frames.decode_doorbell(note)
                self._arriving = header, bell
                self._fill(self._place(header, bell))
            case Kind.HELLO:
                peer = frames.decode_hello(note).host
                self._host.greeted(peer)
                self.peer = peer
                self._tally = self._host.tally(peer, self._class)
                self._line = self._host.line(peer, self._class)
            case _:
                self._host.parted(self.peer)
                if self._line is None or self._dialled:
                    self._take_leave()
                else:  # writes that are held are still to be acknowledged
                    self._hold(lambda _: self._take_leave())
        self._tally.received_frame_bytes += HEADER_BYTES + header.note_bytes

    def _place(self, header: Header, bell: Doorbell) -> memoryview:
        pool, target = self._host.regions.pool(bell.target.region), bell.target
        frames.check_span(pool.layout, target)
        size = pool.layout.span_bytes(target)
        if header.payload_bytes != size:
            raise TransferError(
                f"a write of request {header.request} brings {header.payload_bytes} bytes for "
                f"{target}, which holds {size}"
            )
        view = pool.view(target) if size else None  # it also checks the bounds
        if header.order == Order.BLOCKS and size:
            if view is None:
                raise TransferError(f"a write brings whole blocks for {target}, which has none")
            return view
        if size > len(self._staging):
            self._staging = memoryview(bytearray(size))
        return self._staging[:size]

    def _arrived(self, payload: memoryview) -> None:
        """A write is complete: put it in place, ring the doorbell and acknowledge."""
        assert self._arriving is not None
        (header, bell), self._arriving = self._arriving, None
        self._tally.received_payload_bytes += header.payload_bytes
        self._tally.received_frame_bytes += header.payload_bytes
        if header.order == Order.ROWS and header.payload_bytes:
            self._host.regions.pool(bell.target.region).scatter(bell.target, payload)
        if self._line is None:
            self._ring(header, bell.message)
        else:
            self._hold(lambda due_s: self._ring(header, bell.message, due_s))

    def _ring(self, header: Header, message: Message, due_s: float | None = None) -> None:
        """The doorbell of a write, and its acknowledgement."""
        host = self._host
        note = frames.encode_arrival(host.deliver(self.peer, message, due_s))
        packed = frames.pack(
            Kind.ACK, self._class_index, Order.ROWS, host.run_id, host.epoch, header.request,
            header.layer, time.monotonic_ns(), header.sequence, len(note), 0,
        )  # fmt: skip
        self._owed.add(packed + note, header.payload_bytes)

    def _acknowledge(self, header: Header, note: memoryview) -> None:
        future = self._unacknowledged.pop(header.sequence, None)
        if future is None:
            raise TransferError(f"acknowledgement of write {header.sequence}, which is not open")
        self._host.counts["acks"] += 1
        arrived_s = frames.decode_arrival(note)
        if self._line is None:
            _resolve(future, arrived_s)
        else:  # nobody gives this write up any more: its bytes are there
            self._line.hold(lambda _: _resolve(future, arrived_s))

    def _message(self, header: Header, note: memoryview) -> None:
        self._deliver(frames.decode_message(note))

    def _deliver(self, message: Message, network_ns: int = 0) -> None:
        if self._line is None:
            self._host.deliver(self.peer, message, None, network_ns)
        else:
            self._hold(lambda due_s: self._host.deliver(self.peer, message, due_s, network_ns))

    def _hold(self, release: Callable[[float], object]) -> None:
        """Do it when it is due; any error ends the connection and surfaces in `receive`."""

        def guarded(due_s: float) -> None:
            try:
                release(due_s)
            except TransferError as error:
                self._refuse(error)
            except Exception as error:
                self._refuse(TransferError(f"{type(error).__name__} while delivering: {error}"))

        assert self._line is not None
        self._line.hold(guarded)

    # Ending

    def end(self) -> None:
        """Say goodbye and hang up once everything queued has left; `closed` tells when."""
        if not self.usable:
            return
        self._owed.pay()
        self._emit(Kind.CLOSING, b"")
        self._farewell = True
        if self._dialled:
            self._transport.write_eof()  # the peer still acknowledges what it receives before it
        else:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        self._farewell = True
        if self._open:
            self._transport.abort()

    def abandon(self, sequence: int) -> None:
        """Nobody waits for this write any more: cut the connection unless it has arrived.

        What is queued refers to memory that its owner now gives away; sent later, it would
        carry another request's bytes into a span that is no longer the request's.
        """
        if self._unacknowledged.pop(sequence, None) is not None and self.usable:
            self._cut(
                TransferError(
                    f"connection {self} was cut: write {sequence} was given up unacknowledged; "
                    "repeat what else was under way on it"
                )
            )

    def eof_received(self) -> bool:
        """The peer sends nothing more; flush acknowledgements and hang up."""
        if self._line is None:
            return False
        self._line.hold(self._see_eof)
        return True

    def _see_eof(self, _: float) -> None:
        """All that came before it is acknowledged now."""
        self._eof_seen = True
        self._owed.pay()
        self._transport.close()

    def _take_leave(self) -> None:
        """The peer has said goodbye: it takes acknowledgements that are owed, and nothing else."""
        self._owed.pay()
        self._farewell = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The end comes behind all that arrived before it, unless this host made it."""
        if self._line is None or self._fault is not None or self._eof_seen:
            self._over(exc)
        else:
            self._line.hold(lambda _: self._over(exc))

    def _over(self, exc: Exception | None) -> None:
        """Fail what was under way; tell the transport unless the end was announced."""
        reason = self._fault
        if reason is None and (self._partial or not self._farewell):
            how = "in the middle of a frame" if self._partial else "without a goodbye"
            reason = TransferError(
                f"connection {self} ended {how} ({exc or 'end of stream'}); "
                "its peer died or cut it, see that host's log"
            )
        over = reason or TransferError(f"connection {self} closed before the acknowledgement")
        for future in self._unacknowledged.values():
            if not future.done():
                future.set_exception(over)
        self._unacknowledged.clear()
        self._open = False
        self.closed.set()
        self.resume_writing()
        # A peer that never said a word, like a port probe, is no loss.
        silent = not self.peer and not self._partial
        self._host.lost(self, None if self._fault or silent else reason)

    def _refuse(self, error: TransferError) -> None:
        surfaced = TransferError(f"connection {self}: {error}")
        surfaced.__cause__ = error
        self._sink = None
        self._cut(surfaced)
        self._host.lost(self, surfaced)

    def _cut(self, reason: TransferError) -> None:
        self._fault = reason
        self._transport.abort()

    def __str__(self) -> str:
        peer, here = self.peer or "an unknown peer", self._host.host
        ends = f"{here} -> {peer}" if self._dialled else f"{peer} -> {here}"
        return f"{ends} ({self._class})"


def _resolve(future: asyncio.Future[float], arrived_s: float) -> None:
    if not future.done():
        future.set_result(arrived_s)

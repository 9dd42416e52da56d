"""The modelled transport: writes are fluid flows, messages take a constant latency.

As on the real side, everything of one class between two hosts stays in order, on one channel. A
write arrives when its last byte does; its acknowledgement takes no time but the way's delay. What
the real side puts around a payload (engines/real/frames.py) is counted on the links, and takes no
time at all.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import inf

import msgspec

from engines.errors import TransferError
from engines.kv import Span
from engines.layout import KvLayout
from engines.messages import Barrier, Join, Message, Report
from engines.modelled.fluid import Arrived, Channel, FluidNetwork, Link
from engines.seams.transport import Delivery, TrafficClass, Write

Path = tuple[str, ...]
HEADER_BYTES, ACK_BYTES, DIGEST_BYTES = 54, 62, 8  # as on the real side
NOTE_BYTES = 32  # what a message of class MODEL weighs without its load
HEARTBEATS = {Report, Join}  # said even where nothing happens (engines/modelled/watch.py)

_encode = msgspec.msgpack.Encoder().encode


class Hosts(dict[str, "FluidTransport"]):
    """Hosts by name; TransferError if there is nobody of a name."""

    def __missing__(self, name: str) -> "FluidTransport":
        raise TransferError(f"no host {name!r} in this world, only {', '.join(self)}")


class Wires:
    """What all hosts share: links, routes, and messages on their way.

    `route` gives the links from one host to another, `latency_s` is that of every message on the
    management network, `delay_s` that of a way over links, either way: what crosses them arrives
    so much after its last byte left the last link. `longest_delay_s` is the most of these so far.
    """

    def __init__(
        self,
        network: FluidNetwork,
        route: Callable[[str, str], Path],
        layout: KvLayout,
        latency_s: float,
        delay_s: Callable[[str, str], float] | None = None,
    ) -> None:
        self.loop = network.loop
        self.longest_delay_s = 0.0
        self._delay_s = delay_s
        self._delays: dict[tuple[str, str], float] = {}
        self.hosts = Hosts()
        self.layout = layout
        self.said = 0  # messages but for reports and collectives, and writes begun
        self.under_way = 0  # writes begun that have not arrived
        self._token_scale = layout.token_scale
        self._row_layer_bytes = layout.row_bytes // layout.layers
        self._network = network
        self._route = route
        self._latency_s = latency_s
        self._channels: dict[tuple[str, str, bool], Channel] = {}
        self._both_ways: dict[tuple[str, str], tuple[tuple[Link, ...], tuple[Link, ...]]] = {}
        self._due_s = -inf
        self._due: list[tuple[FluidTransport, Delivery]] = []

    def flow(self, sender: str, peer: str, model: bool, size: int, arrived: Arrived) -> None:
        """Move bytes; nothing at all arrives at once, but behind what was sent before."""
        if delay_s := self.delay_s(sender, peer):
            arrived = partial(self.loop.call_later, delay_s, arrived)
        self._network.send(self._channel(sender, peer, model), size, arrived)

    def delay_s(self, sender: str, peer: str) -> float:
        """The delay of the way from one host to another."""
        if self._delay_s is None:
            return 0.0
        key = (sender, peer)
        delay_s = self._delays.get(key)
        if delay_s is None:
            delay_s = self._delays[key] = self._delay_s(sender, peer)
            self.longest_delay_s = max(self.longest_delay_s, delay_s)
        return delay_s

    def queued_s(self, sender: str, peer: str) -> float:
        """How long a message of class MODEL waits behind KV where there are no classes."""
        return self._network.queued_s(self._channel(sender, peer, True).links)

    def weigh(self, write: Write) -> int:
        """Bytes of a write; TransferError unless source and target hold as many."""
        source, target, scale = write.source, write.target, self._token_scale
        rows = source.last // scale - source.first // scale
        layers = source.layer_last - source.layer_first
        if (
            target.last // scale - target.first // scale != rows
            or target.layer_last - target.layer_first != layers
        ):
            raise TransferError(
                f"write of request {write.request}: {source} and {target} do not "
                "weigh the same; spans must cover the same tokens and layers"
            )
        return rows * layers * self._row_layer_bytes

    def frame(self, sender: str, peer: str, writes: Sequence[Write]) -> None:
        """Count what surrounds payloads: header and note on the way, an acknowledgement back."""
        around, back_bytes = HEADER_BYTES * len(writes), ACK_BYTES * len(writes)
        for write in writes:
            around += len(_encode((write.note, write.target)))
        key = (sender, peer)
        both_ways = self._both_ways.get(key)
        if both_ways is None:
            there, back = self._channel(sender, peer, False), self._channel(peer, sender, False)
            both_ways = self._both_ways[key] = (there.links, back.links)
        for link in both_ways[0]:
            link.frame_bytes += around
        for link in both_ways[1]:
            link.frame_bytes += back_bytes

    def acknowledge(self, future: asyncio.Future[float], arrived_s: float) -> None:
        """Writes are over, for who waits for them, if anybody still does."""
        self.under_way -= 1
        if not future.done():
            future.set_result(arrived_s)

    def _channel(self, sender: str, peer: str, model: bool) -> Channel:
        key = (sender, peer, model)
        channel = self._channels.get(key)
        if channel is None:
            route = self._route(sender, peer)
            channel = self._channels[key] = self._network.channel(model, route)
        return channel

    def post(self, sender: str, peer: str, message: Message) -> None:
        """Deliver a message after the latency; all messages stay in order."""
        due_s = self.loop.now_s + self._latency_s
        if due_s != self._due_s:
            self._due_s, self._due = due_s, []
            self.loop.call_at(due_s, self._deliver, self._due)
        self._due.append((self.hosts[peer], Delivery(sender, message, due_s)))

    def _deliver(self, due: list[tuple["FluidTransport", Delivery]]) -> None:
        if due is self._due:
            self._due_s = -inf  # without latency, more may be posted in this instant
        for peer, delivery in due:
            peer.deliver(delivery)


class FluidTransport:
    """Implements the seam `Transport` for one host of the virtual world."""

    def __init__(self, host: str, wires: Wires) -> None:
        self.host = host
        self._wires = wires
        self._early: deque[Delivery] = deque()
        self._handle: Callable[[Delivery], None] = self._early.append
        self._serving: asyncio.Future[None]
        wires.hosts[host] = self

    async def write(self, peer: str, writes: Sequence[Write], *, deadline_s: float) -> float:
        """Move spans as one flow; returns the target time at which the peer had them in place."""
        wires, target = self._wires, self._wires.hosts[peer]
        future: asyncio.Future[float] = asyncio.Future(loop=wires.loop)
        size = 0
        for write in writes:
            size += wires.weigh(write)

        wires.said += 1
        wires.under_way += 1
        model = writes[0].traffic_class is TrafficClass.MODEL
        wires.flow(self.host, peer, model, size, partial(self._arrived, target, writes, future))
        return await future

    def _arrived(
        self, target: "FluidTransport", writes: Sequence[Write], future: asyncio.Future[float]
    ) -> None:
        wires, host = self._wires, self.host
        now_s = wires.loop.now_s
        wires.frame(host, target.host, writes)
        for write in writes:
            target.deliver(Delivery(host, write.note, now_s))
        if back_s := wires.delay_s(target.host, host):
            wires.loop.call_later(back_s, wires.acknowledge, future, now_s)
        else:
            wires.acknowledge(future, now_s)

    def post(
        self, peer: str, message: Message, traffic_class: TrafficClass = TrafficClass.CTRL
    ) -> None:
        """Send a message; those of class MODEL cross the data network, as flows."""
        if traffic_class is TrafficClass.CTRL:
            wires = self._wires
            wires.said += type(message) not in HEARTBEATS
            return wires.post(self.host, peer, message)
        target, posted_s = self._wires.hosts[peer], self._wires.loop.now_s
        load = len(message.load) if isinstance(message, Barrier) else 0

        def arrived() -> None:
            now_s = self._wires.loop.now_s
            target.deliver(Delivery(self.host, message, now_s, now_s - posted_s))

        def leave() -> None:
            self._wires.flow(self.host, peer, True, NOTE_BYTES + load, arrived)

        if queued_s := self._wires.queued_s(self.host, peer):
            self._wires.loop.call_later(queued_s, leave)
        else:
            leave()

    async def serve(self, handle: Callable[[Delivery], None]) -> None:
        """Hand over what arrives in the instant in which it does; what came before, first."""
        self._serving = self._wires.loop.create_future()
        self._handle = handle
        try:
            while self._early:
                handle(self._early.popleft())
            await self._serving
        finally:
            self._handle = self._early.append

    def deliver(self, delivery: Delivery) -> None:
        """A message is here."""
        try:
            self._handle(delivery)
        except Exception as error:
            if self._serving.done():
                raise
            self._handle = self._early.append  # who failed hears no more, not even in this instant
            self._serving.set_exception(error)

    def copy(self, source: Span, target: Span) -> None:
        """Blocks here are sizes: nothing moves."""

    def seal(self, span: Span, content: bytes, first_block: int) -> bytes:
        """Blocks here are sizes: there is nothing to digest, but digests weigh something."""
        blocks = (span.last - span.first) // self._wires.layout.block_tokens
        return bytes(DIGEST_BYTES * blocks)

    def check(self, span: Span, content: bytes, first_block: int, digests: bytes) -> None:
        """Sizes are right by construction."""

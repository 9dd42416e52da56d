"""A cluster in memory for engine tests: virtual time, and KV that depends on itself.

One row stands for `BLOCK` tokens and is one byte of content. A row's KV is a hash of the KV
before it, so whoever computes on KV that is missing or wrong gets other tokens.
"""

import asyncio
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.config import ExchangeConfig, KvShape
from engines.errors import DeadlineExceeded, KvDigestMismatch, KvMissing
from engines.kv import Extent, Span
from engines.messages import Message
from engines.modelled.loop import VirtualLoop, run_virtual, virtual_loop
from engines.seams.compute import DecodeJob, PrefillJob
from engines.seams.transport import Delivery, TrafficClass, Write
from engines.tasks import Future

BLOCK = 4
LAYERS = 2
KV = KvShape(LAYERS, BLOCK, BLOCK)
EXCHANGE = ExchangeConfig(1.0, 2.0, 16, 1e6, 0.001)
Memory = NDArray[np.int64]


def play(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function to its end in virtual time; a hang is an error at once."""
    run_virtual(function)


def running_loop() -> VirtualLoop:
    """The loop that plays us; where none does, one that stands still."""
    loop = asyncio._get_running_loop()
    return loop if isinstance(loop, VirtualLoop) else virtual_loop()


class FakeClock:
    def now_s(self) -> float:
        return anyio.current_time()

    async def sleep_until_s(self, when_s: float) -> None:
        await anyio.lowlevel.checkpoint()
        while (left_s := when_s - self.now_s()) > 0:
            await anyio.sleep(max(left_s, 1e-9))

    async def beat_until_s(self, when_s: float) -> None:
        await self.sleep_until_s(when_s)

    async def wait_for(self, woken: Future[None], seconds: float, what: str) -> None:
        with self.deadline(seconds, what):
            await woken

    @contextmanager
    def deadline(self, seconds: float, what: str) -> Iterator[None]:
        with anyio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise DeadlineExceeded(f"{what} took longer than {seconds} s")


class Sent(msgspec.Struct, frozen=True):
    """A message, or a write with its note, as it arrived."""

    at_s: float
    sender: str
    peer: str
    message: Message
    traffic_class: TrafficClass
    write: Write | None = None

    @property
    def token_layers(self) -> int:
        """What a write weighs: tokens times layers."""
        assert self.write is not None
        span = self.write.source
        return (span.last - span.first) * (span.layer_last - span.layer_first)


class Network:
    """Every host's inbox and memory, and all that was ever sent."""

    def __init__(self, token_layer_s: float = 0.0) -> None:
        self.token_layer_s = token_layer_s
        self.before_write: Callable[[str, str, Write], Awaitable[None]] | None = None
        self.log: list[Sent] = []
        self._regions: dict[tuple[str, str], Memory] = {}
        self._inboxes: dict[str, deque[Delivery]] = {}
        self._arrived: dict[str, anyio.Event] = {}

    def rows(self, host: str, span: Span) -> Memory:
        """A view of a span: `[rows, layers]`."""
        region = self._regions.setdefault((host, span.region), np.zeros((512, LAYERS), np.int64))
        start = span.slot // BLOCK
        rows = slice(start + span.first // BLOCK, start + span.last // BLOCK)
        return region[rows, span.layer_first : span.layer_last]

    def deliver(self, sent: Sent) -> None:
        self.log.append(sent)
        delivery = Delivery(sent.sender, sent.message, sent.at_s)
        self._inboxes.setdefault(sent.peer, deque()).append(delivery)
        self._arrived.pop(sent.peer, anyio.Event()).set()

    async def next(self, host: str) -> Delivery:
        inbox = self._inboxes.setdefault(host, deque())
        while not inbox:
            await self._arrived.setdefault(host, anyio.Event()).wait()
        return inbox.popleft()

    def writes(self, sender: str = "", peer: str = "") -> list[Sent]:
        """Writes from a host, or to one, or both."""
        return [
            sent
            for sent in self.log
            if sent.write and sender in ("", sent.sender) and peer in ("", sent.peer)
        ]

    def messages(self, kind: type[Message]) -> list[Sent]:
        """All messages and notes of a kind."""
        return [sent for sent in self.log if isinstance(sent.message, kind)]


class FakeTransport:
    """Moves rows between the memories of a `Network`; messages arrive at once and in order."""

    def __init__(self, host: str, network: Network) -> None:
        self.host = host
        self.network = network

    async def write(self, peer: str, writes: Sequence[Write], *, deadline_s: float) -> float:
        for write in writes:
            await self._write(peer, write)
        return anyio.current_time()

    async def _write(self, peer: str, write: Write) -> None:
        source, target = write.source, write.target
        assert source.last - source.first == target.last - target.first
        network = self.network
        if network.before_write is not None:
            await network.before_write(self.host, peer, write)
        tokens = (source.last - source.first) * (source.layer_last - source.layer_first)
        await FakeClock().sleep_until_s(anyio.current_time() + tokens * network.token_layer_s)
        # The source is read as late as it could be: whoever freed it too early sends rubbish.
        network.rows(peer, target)[:] = network.rows(self.host, source)
        at_s = anyio.current_time()
        network.deliver(Sent(at_s, self.host, peer, write.note, write.traffic_class, write))

    def post(
        self, peer: str, message: Message, traffic_class: TrafficClass = TrafficClass.CTRL
    ) -> None:
        self.network.deliver(Sent(anyio.current_time(), self.host, peer, message, traffic_class))

    async def serve(self, handle: Callable[[Delivery], None]) -> None:
        while True:
            handle(await self.network.next(self.host))

    def copy(self, source: Span, target: Span) -> None:
        self.network.rows(self.host, target)[:] = self.network.rows(self.host, source)

    def seal(self, span: Span, content: bytes, first_block: int) -> bytes:
        rows = self.network.rows(self.host, span)
        assert len(content) >= first_block + len(rows), "the content ends before the blocks"
        return b"".join(digest(content, first_block + n, row) for n, row in enumerate(rows))

    def check(self, span: Span, content: bytes, first_block: int, digests: bytes) -> None:
        if self.seal(span, content, first_block) != digests:
            raise KvDigestMismatch(f"{self.host}: blocks at {span} are not those of their keys")


class FakeStore:
    """Blocks in a dictionary; `medium_s` is what an append takes."""

    def __init__(self, host: str, network: Network) -> None:
        self.host = host
        self.network = network
        self.blocks: dict[tuple[int, int], tuple[Memory, bytes]] = {}
        self.medium_s = 0.0

    def hold(self, chain: int, content: bytes, first: int, count: int) -> None:
        """Put the right KV of a content's blocks there, as an earlier run would have."""
        values = kv_of(content)
        for block in range(first, first + count):
            self.blocks[chain, block] = values[block], digest(content, block, values[block])

    async def read(self, extents: Sequence[Extent], into: Span) -> bytes:
        await anyio.lowlevel.checkpoint()
        numbers = [(e.chain, n) for e in extents for n in range(e.first, e.first + e.count)]
        for number in numbers:
            if number not in self.blocks:
                raise KvMissing(f"{self.host} does not hold block {number[1]} of {number[0]}")
        found = [self.blocks[number] for number in numbers]
        self.network.rows(self.host, into)[:] = np.array([values for values, _ in found])
        return b"".join(digests for _, digests in found)

    async def append(self, extent: Extent, source: Span, digests: bytes) -> None:
        await anyio.sleep(self.medium_s)
        for n, values in enumerate(self.network.rows(self.host, source)):
            number = extent.chain, extent.first + n
            assert number not in self.blocks, f"block {number} is kept twice"
            self.blocks[number] = values.copy(), digests[8 * n : 8 * n + 8]


class FakeCompute:
    """Paced: returns at `due_s`, or at once if that has passed; takes no time of its own."""

    def __init__(self, host: str, network: Network) -> None:
        self.host = host
        self.network = network
        self.prefills: list[tuple[float, int, tuple[PrefillJob, ...]]] = []
        self.decodes: list[tuple[float, int]] = []

    async def prefill(
        self, jobs: Sequence[PrefillJob], layer: int, due_s: float
    ) -> dict[int, bytes]:
        await FakeClock().sleep_until_s(due_s)
        self.prefills.append((anyio.current_time(), layer, tuple(jobs)))
        return {job.request: content for job in jobs if (content := self._run(job, layer))}

    def _run(self, job: PrefillJob, layer: int) -> bytes:
        column = self.network.rows(self.host, job.slot.layer(layer))[:, 0]
        for row in range(job.first // BLOCK, job.last // BLOCK):
            column[row] = mix(int(column[row - 1]) if row else 0, job.content[row], layer)
        last = job.final and layer == LAYERS - 1
        return next_byte(int(column[job.last // BLOCK - 1])) if last else b""

    async def decode(self, jobs: Sequence[DecodeJob], due_s: float) -> list[bytes]:
        await FakeClock().sleep_until_s(due_s)
        self.decodes.append((anyio.current_time(), len(jobs)))
        return [self._next(job) for job in jobs]

    def _next(self, job: DecodeJob) -> bytes:
        rows, row = self.network.rows(self.host, job.slot), job.first // BLOCK
        for layer in range(LAYERS):
            rows[row, layer] = mix(int(rows[row - 1, layer]), job.content[0], layer)
        return next_byte(int(rows[row, LAYERS - 1]))

    def fingerprint(self, span: Span) -> str:
        return str(zlib.crc32(self.network.rows(self.host, span).tobytes()))


class FakeAuthor:
    """Writes one byte a row, other ones for each opening, and for each agent and turn."""

    def opening(self, opening: int, tokens: int) -> bytes:
        return text(opening, tokens)

    def extend(self, content: bytes, prompt_tokens: int, agent: int, turn: int) -> bytes:
        missing = max(0, prompt_tokens // BLOCK - len(content))
        return content + text(100 + 10 * agent + turn, missing * BLOCK)

    def truncate(self, content: bytes, tokens: int) -> bytes:
        return content[: tokens // BLOCK]


def text(number: int, tokens: int) -> bytes:
    """Content for `tokens` tokens, another one for each number."""
    return bytes((number * 7 + row) % 256 for row in range(tokens // BLOCK))


def mix(before: int, byte: int, layer: int) -> int:
    """The KV of a row, from that of the row before it."""
    return zlib.crc32(bytes([byte, layer]), before)


def next_byte(last_kv: int) -> bytes:
    return bytes([zlib.crc32(b"next", last_kv) % 256])


def kv_of(content: bytes) -> Memory:
    """The KV of a content: `[rows, layers]`."""
    values = np.zeros((len(content), LAYERS), np.int64)
    for layer in range(LAYERS):
        before = 0
        for row, byte in enumerate(content):
            values[row, layer] = before = mix(before, byte, layer)
    return values


def generated_by(content: bytes, prompt_tokens: int, generate_tokens: int) -> bytes:
    """What a right cluster generates after a prompt."""
    rows = (prompt_tokens + generate_tokens) // BLOCK - prompt_tokens // BLOCK
    for _ in range(rows):
        content += next_byte(int(kv_of(content)[-1, LAYERS - 1]))
    return content[len(content) - rows :] if rows else b""


def digest(content: bytes, block: int, values: Memory) -> bytes:
    key = zlib.crc32(content[: block + 1])
    return key.to_bytes(4, "little") + zlib.crc32(values.tobytes()).to_bytes(4, "little")

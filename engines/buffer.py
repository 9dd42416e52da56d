"""A node's host DRAM and traffic manager: the PE buffer or the DE buffer of DualPath.

The life of a turn's KV here is one coroutine, step by step as in section 3 of the paper:
`_prefill_side` is steps 1-4 of the PE read path, `_decode_side` the DE buffer's part of both.
"""

from itertools import groupby

import anyio
import msgspec
from anyio.abc import TaskGroup

from engines.config import BufferConfig
from engines.control import Reporter
from engines.errors import EngineError, KvDigestMismatch
from engines.kv import Extent, Slots, Span, blocks, storage_of
from engines.messages import (
    Admit,
    Admitted,
    Append,
    Assign,
    Drain,
    Granted,
    LayerDone,
    LayerLoaded,
    Loaded,
    Message,
    Persist,
    Persisted,
    Pull,
    Read,
    ReadDigests,
    ReadDone,
    Report,
    Start,
    TurnFailed,
)
from engines.seams.clock import Clock
from engines.seams.transport import Transport, Write
from engines.waits import Arena, Awaited, Bandwidth
from scheduler.types import NodeReport, ReadExtent, Side


class HeldTurn:
    """What a buffer knows of one turn; messages may come before the assignment that names it."""

    def __init__(self, request: int) -> None:
        self.request = request
        self.scope = anyio.CancelScope()
        self.pulled: Awaited[bool] = Awaited(f"the end of turn {request}'s pulls")
        self.complete: Awaited[LayerDone] = Awaited(f"the last layer of turn {request}")
        self.admitted: Awaited[Span] = Awaited(f"room in decode HBM for turn {request}")
        self.kept: Awaited[bool] = Awaited(f"the last block of turn {request} to be kept")
        self.queued_tokens = 0
        self.to_push_tokens = 0
        self.tokens_due = 0
        self.tokens_here = 0
        self.final: LayerDone | None = None

    def expect(self, assign: Assign, block_tokens: int) -> None:
        """On the DE side: how many blocks decode will send, and what they continue."""
        request = assign.turn.request
        self.chain, self.content = assign.turn.chain, assign.turn.content
        end, prompt = (
            blocks(tokens, block_tokens)
            for tokens in (request.context_tokens, request.prompt_tokens)
        )
        self.blocks_left = end - prompt
        self.count_kept(0)

    def count_kept(self, count: int) -> None:
        """So many more generated blocks are in storage."""
        self.blocks_left -= count
        if self.blocks_left == 0:
            self.kept.set(True)


class Buffer:
    """Reads from storage, feeds prefill engines layer by layer, collects prompts for decode."""

    def __init__(self, config: BufferConfig, clock: Clock, transport: Transport) -> None:
        self._config = config
        self._clock = clock
        self._transport = transport
        self._side = Side(config.side)
        self._dram = Arena(Slots(config.dram_tokens, config.kv.block_tokens))
        self._bandwidth = Bandwidth(clock, config.dram_tokens_per_s * config.kv.layers)
        self._inbox = {
            storage: Arena(Slots(config.inbox_tokens, config.kv.block_tokens))
            for storage in config.storages
        }
        self._reads = anyio.Semaphore(config.reads_in_flight, fast_acquire=True)
        self._ahead = anyio.Semaphore(config.read_ahead or 1_000_000, fast_acquire=True)
        self._turns: dict[int, HeldTurn] = {}
        self._arriving: dict[Span, _Arrival] = {}
        self._keeping: dict[Extent, Awaited[bool]] = {}
        self._failed: set[int] = set()
        self._seen = 0
        self._reporter = Reporter(config.host, config.group, clock, transport, self._report)
        self.account: dict[str, float] = {
            "read_tokens": 0, "digest_failures": 0, "turns": 0, "no_hole": 0, "dram_s": 0.0,
        }  # fmt: skip

    async def run(self) -> None:
        """Receive and act until drained."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._reporter.run)
            while True:
                delivery = await self._transport.receive()
                if isinstance(delivery.message, Drain):
                    tasks.cancel_scope.cancel()
                    self.account["no_hole"] = self._dram.no_hole
                    self.account["dram_s"] = self._bandwidth.booked_s
                    return
                self._act(delivery.sender, delivery.message, tasks)

    def _act(self, sender: str, message: Message, tasks: TaskGroup) -> None:
        answer = isinstance(message, ReadDone | ReadDigests | Persisted)
        if not answer and getattr(message, "request", None) in self._failed:
            return  # a straggler of a turn that has ended; storage's answers are waited for
        match message:
            case Assign() if message.decision.request_id in self._failed:
                self._seen = message.decision.seq
            case Assign():
                tasks.start_soon(self._live, message)
            case ReadDone():
                self._arriving[message.span].blocks.set(True)
            case ReadDigests():
                self._arriving[message.span].digests.set(message)
            case Pull():
                tasks.start_soon(self._push, sender, message)
            case LayerDone():
                self._layer(message)
            case Admitted():
                self._turn(message.request).admitted.set(message.slot)
            case Append():
                tasks.start_soon(self._append, sender, message)
            case Persisted():
                self._keeping[message.extent].set(True)
            case TurnFailed():
                self._end(message.request)
            case Report():
                self._reporter.hear(sender, message)
            case other:
                raise EngineError(f"{self._config.host} cannot use {type(other).__name__}")

    async def _live(self, assign: Assign) -> None:
        decision = assign.decision
        turn = self._turn(decision.request_id)
        self._seen = decision.seq
        reads = [read for read in decision.reads if read.side is self._side]
        tokens = sum(read.count for read in reads) * self._config.kv.block_tokens
        turn.queued_tokens = turn.to_push_tokens = tokens
        try:
            with turn.scope:
                if self._side is Side.PE:
                    await self._prefill_side(turn, assign, reads)
                else:
                    await self._decode_side(turn, assign, reads)
                self.account["turns"] += 1
        finally:
            del self._turns[turn.request]

    async def _prefill_side(self, turn: HeldTurn, assign: Assign, reads: list[ReadExtent]) -> None:
        async with self._ahead:
            slot = await self._dram.take(assign.turn.request.hit_tokens)
            try:
                await self._read_all(turn, assign, reads, slot)
                await turn.pulled.wait(self._clock, self._config.deadline_s)
            finally:
                self._dram.give(slot)

    async def _decode_side(self, turn: HeldTurn, assign: Assign, reads: list[ReadExtent]) -> None:
        request, kv = assign.turn.request, self._config.kv
        here = sum(read.count for read in reads) * kv.block_tokens
        slot = await self._dram.take(request.prompt_tokens)
        try:
            prompt = Span("dram", slot, 0, request.prompt_tokens, 0, kv.layers)
            turn.tokens_due = (request.prompt_tokens - here) * kv.layers
            turn.expect(assign, kv.block_tokens)
            prefill = self._config.engine_hosts[assign.decision.pe]
            await self._transport.send(prefill, Granted(request.id, prompt))
            await self._read_all(turn, assign, reads, slot)
            final = await turn.complete.wait(self._clock, self._config.deadline_s)
            await self._hand_over(turn, assign, final, prompt)
        finally:
            self._dram.give(slot)
        # What decode generates continues the prompt: its keys need the content until the end.
        await turn.kept.wait(self._clock, self._config.deadline_s)

    async def _hand_over(
        self, turn: HeldTurn, assign: Assign, final: LayerDone, prompt: Span
    ) -> None:
        """Persist the prompt's new blocks; move the whole prompt into decode HBM."""
        request, block = assign.turn.request, self._config.kv.block_tokens
        decode = self._config.engine_hosts[assign.decision.de]
        content = assign.turn.content
        first, last = blocks(request.hit_tokens, block), blocks(request.prompt_tokens, block)
        new = _Blocks(
            Extent(assign.turn.chain, first, last - first),
            prompt.tokens(first * block, last * block),
            content,
            request.id,
        )
        await self._transport.send(decode, Admit(request.id, final.content))
        hbm = await turn.admitted.wait(self._clock, self._config.deadline_s)
        move = Write(prompt, hbm.tokens(0, request.prompt_tokens), Start(request.id), request.id)
        await self._bandwidth.turn(prompt)
        async with anyio.create_task_group() as both:
            both.start_soon(self._keep, new, decode)
            await self._transport.write(decode, move, deadline_s=self._config.deadline_s)

    async def _read_all(
        self, turn: HeldTurn, assign: Assign, reads: list[ReadExtent], slot: int
    ) -> None:
        """Storage to DRAM, Full Blocks; few reads at a time, the others queue here in order."""
        kv, prefill = self._config.kv, self._config.engine_hosts[assign.decision.pe]
        for read in reads:
            first, last = read.first * kv.block_tokens, (read.first + read.count) * kv.block_tokens
            span = Span("dram", slot, first, last, 0, kv.layers)
            async with self._reads:
                # A read under way is seen through even if its turn has failed meanwhile: what
                # storage still writes must not land in a slot that already belongs to another.
                with anyio.CancelScope(shield=True):
                    await self._read(turn, assign, read, span)
            await anyio.lowlevel.checkpoint()
            turn.queued_tokens -= last - first
            self.account["read_tokens"] += last - first
            loaded = Loaded(turn.request, self._side, span, first, last)
            await self._transport.send(prefill, loaded)

    async def _read(self, turn: HeldTurn, assign: Assign, read: ReadExtent, span: Span) -> None:
        await self._bandwidth.turn(span)
        parts = self._parts(turn.request, _cut(assign.turn.context, read.first, read.count), span)
        for storage, part in parts:
            self._arriving[part.into] = _Arrival(turn.request, storage)
            await self._transport.send(storage, part)
        answers = [await self._answer(part.into) for _, part in parts]
        reasons = [answer.error for answer in answers if answer.error]
        try:
            if not reasons:
                digests = b"".join(answer.digests for answer in answers)
                self._transport.check(span, assign.turn.content, read.first, digests)
        except KvDigestMismatch as error:
            self.account["digest_failures"] += 1
            reasons = [str(error)]
        if reasons:
            await self._fail(turn, reasons[0])

    async def _answer(self, span: Span) -> ReadDigests:
        """Storage's word on one read, and the blocks unless it has none."""
        arrival = self._arriving[span]
        answer = await arrival.digests.wait(self._clock, self._config.deadline_s)
        if not answer.error:
            await arrival.blocks.wait(self._clock, self._config.deadline_s)
        del self._arriving[span]
        return answer

    def _parts(
        self, request: int, extents: tuple[Extent, ...], span: Span
    ) -> list[tuple[str, Read]]:
        """One read a storage host: neighbours in the prompt that lie on the same one."""
        found: list[tuple[str, Read]] = []
        at = span.first
        for storage, group in groupby(extents, lambda extent: self._storage(extent.chain)):
            those = tuple(group)
            end = at + sum(extent.count for extent in those) * self._config.kv.block_tokens
            found.append((storage, Read(request, those, span.tokens(at, end))))
            at = end
        return found

    async def _push(self, prefill: str, pull: Pull) -> None:
        """Layer Blocks from DRAM into prefill HBM; the next layer once this one is there."""
        turn = self._turn(pull.request)
        source = pull.source
        for layer in range(self._config.kv.layers):
            note = LayerLoaded(pull.request, layer, pull.first, pull.last)
            write = Write(
                source.tokens(pull.first, pull.last).layer(layer),
                pull.into.tokens(pull.first, pull.last).layer(layer),
                note,
                pull.request,
            )
            await self._bandwidth.turn(write.source)
            await self._transport.write(prefill, write, deadline_s=self._config.deadline_s)
        turn.to_push_tokens -= pull.last - pull.first
        if self._side is Side.PE and turn.to_push_tokens == 0:
            turn.pulled.set(True)

    def _layer(self, done: LayerDone) -> None:
        turn = self._turn(done.request)
        self._bandwidth.book(Span("dram", 0, 0, done.tokens, done.layer, done.layer + 1))
        turn.tokens_here += done.tokens
        turn.final = done if done.final else turn.final
        if turn.final is not None and turn.tokens_here == turn.tokens_due:
            turn.complete.set(turn.final)

    async def _append(self, decode: str, append: Append) -> None:
        turn = self._turn(append.request)
        extent = Extent(turn.chain, append.first_block, append.count)
        content = turn.content + append.generated
        await self._keep(_Blocks(extent, append.span, content, append.request), decode)
        turn.count_kept(append.count)

    async def _keep(self, new: "_Blocks", decode: str) -> None:
        """DRAM to storage; then tell the decode engine that a next turn may hit these blocks."""
        if new.extent.count:
            await self._store(new)
        await self._transport.send(decode, Persisted(new.request, new.extent, new.span))

    async def _store(self, new: "_Blocks") -> None:
        kv, deadline_s = self._config.kv, self._config.deadline_s
        storage = self._storage(new.extent.chain)
        tokens = new.extent.count * kv.block_tokens
        digests = self._transport.seal(new.span, new.content, new.extent.first)
        slot = await self._inbox[storage].take(tokens)
        try:
            inbox = Span("inbox", self._config.inbox_base + slot, 0, tokens, 0, kv.layers)
            kept = self._keeping[new.extent] = Awaited(f"{storage} to keep {new.extent}")
            note = Persist(new.request, new.extent, inbox, digests)
            write = Write(new.span, inbox, note, new.request)
            await self._transport.write(storage, write, deadline_s=deadline_s)
            await kept.wait(self._clock, deadline_s)
            del self._keeping[new.extent]
        finally:
            self._inbox[storage].give(slot)

    async def _fail(self, turn: HeldTurn, reason: str) -> None:
        """End the turn here and tell everybody who may hold something of it."""
        for host in self._config.everyone:
            await self._transport.send(host, TurnFailed(turn.request, reason))
        self._end(turn.request)

    def _end(self, request: int) -> None:
        self._failed.add(request)
        if request in self._turns:
            self._turns[request].scope.cancel()

    def _turn(self, request: int) -> HeldTurn:
        turn = self._turns.get(request)
        if turn is None:
            turn = self._turns[request] = HeldTurn(request)
        return turn

    def _storage(self, chain: int) -> str:
        return storage_of(chain, self._config.storages)

    def _report(self) -> Report:
        queued = sum(turn.queued_tokens for turn in self._turns.values())
        node = NodeReport(self._config.node, queued, self._seen)
        return Report(self._config.group.name, (), (node,))


class _Arrival:
    """The two halves of a read's answer, in whatever order they come."""

    def __init__(self, request: int, storage: str) -> None:
        self.blocks: Awaited[bool] = Awaited(f"the blocks of turn {request} from {storage}")
        self.digests: Awaited[ReadDigests] = Awaited(
            f"the digests of turn {request} from {storage}"
        )


class _Blocks(msgspec.Struct, frozen=True):
    """New Full Blocks of a turn: where they go, where they lie, and what sequence they end."""

    extent: Extent
    span: Span
    content: bytes
    request: int


def _cut(context: tuple[Extent, ...], first: int, count: int) -> tuple[Extent, ...]:
    """The extents of a prompt's blocks `first` to `first + count`."""
    wanted = (
        (extent.chain, max(extent.first, first), min(extent.first + extent.count, first + count))
        for extent in context
    )
    return tuple(Extent(chain, start, end - start) for chain, start, end in wanted if end > start)

"""A node's host DRAM and traffic manager: the PE buffer or the DE buffer of DualPath.

The life of a turn's KV here is one coroutine, step by step as in section 3 of the paper:
`_prefill_side` is steps 1-4 of the PE read path, `_decode_side` the DE buffer's part of both.
"""

from collections.abc import Iterator

from engines.buffer_turn import HeldRead, HeldTurn
from engines.cache import DramCache
from engines.config import BufferConfig
from engines.control import Reporter
from engines.errors import KvDigestMismatch
from engines.handlers import Handlers
from engines.kv import Extent, Slots, Span, blocks
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
    NewTerm,
    Persisted,
    Pull,
    Read,
    ReadDigests,
    ReadDone,
    Report,
    Start,
    TurnFailed,
)
from engines.persist import NewBlocks, Persister
from engines.reads import Arrival, parts_of
from engines.seams.clock import Clock
from engines.seams.transport import Delivery, Transport, Write
from engines.tasks import Crew
from engines.terms import Terms
from engines.waits import Arena, Backlog, Bandwidth, Places
from scheduler.prefix import chains_of
from scheduler.types import NodeReport, Side


class Buffer:
    """Reads from storage, feeds prefill engines layer by layer, collects prompts for decode."""

    def __init__(self, config: BufferConfig, clock: Clock, transport: Transport) -> None:
        self._config = config
        self._clock = clock
        self._transport = transport
        self._side = Side(config.side)
        self._dram = Arena(Slots(config.dram_tokens, config.kv.block_tokens), "buffer DRAM")
        self._bandwidth = Bandwidth(clock, config.dram_tokens_per_s * config.kv.layers)
        self._sending = Backlog(config.kv.layers)
        self._reads = Places(config.reads_in_flight, "a read in flight")
        self._ahead = Places(config.read_ahead or 1_000_000, "a place in the read-ahead")
        self._turns: dict[int, HeldTurn] = {}
        self._arriving: dict[Span, Arrival] = {}
        self._queued_tokens = self._roomless_tokens = 0
        self._failed: set[int] = set()
        self._terms = Terms()
        self._cache = DramCache(config.cache_tokens, config.kv, transport)
        self._tasks = Crew()
        self._persister = Persister(config, transport, self._cache, self._tasks)
        self._reporter = Reporter(config.host, config.group, clock, transport, self._report)
        self._handlers = self._hears()
        self.account: dict[str, float] = {
            "read_tokens": 0, "digest_failures": 0, "turns": 0, "no_hole": 0, "dram_s": 0.0,
        }  # fmt: skip
        self.cached_tokens: dict[int, int] = {}  # of each turn that hit the cache

    async def run(self) -> None:
        """Receive and act until drained."""
        async with self._tasks as tasks:
            tasks.start(self._reporter.run())
            tasks.start(self._transport.serve(self._act))
        self.account["no_hole"] = self._dram.no_hole
        self.account["most_reads"] = self._reads.most_held
        self.account["dram_s"] = self._bandwidth.booked_s

    def waits(self) -> Iterator[str]:
        """Turns in line for what this host hands out, in words."""
        yield from self._dram.waits()
        yield from self._persister.waits()
        for places in (self._reads, self._ahead):
            yield from places.waits()

    def _hears(self) -> Handlers:
        hears = Handlers(self._config.host)
        hears.on(Append, self._append)
        hears.on(Persisted, lambda _, persisted: self._persister.hear(persisted))
        hears.on(Assign, self._assigned)
        hears.on(ReadDone, lambda _, done: self._arriving[done.span].come())
        hears.on(ReadDigests, lambda _, answer: self._arriving[answer.span].say(answer))
        hears.on(Pull, lambda pe, pull: self._turn(pull.request).hear_pull(pe.sender, pull))
        hears.on(LayerDone, self._layer)
        hears.on(Admitted, lambda _, told: self._turn(told.request).admitted.set(told.slot))
        hears.on(TurnFailed, lambda _, failed: self._end(failed.request))
        hears.on(Report, lambda member, report: self._reporter.hear(member.sender, report))
        hears.on(NewTerm, self._new_term)
        hears.on(Drain, lambda _, drain: self._tasks.dismiss())
        return hears

    def _act(self, delivery: Delivery) -> None:
        message = delivery.message
        if not (self._failed and self._straggles(message)):
            self._handlers[type(message)](delivery, message)

    def _straggles(self, message: Message) -> bool:
        """Whether it is of a turn that has ended; storage's answers are waited for all the same."""
        answer = isinstance(message, ReadDone | ReadDigests | Persisted)
        return not answer and getattr(message, "request", None) in self._failed

    def _new_term(self, scheduler: Delivery, new: NewTerm) -> None:
        if holds := self._terms.begin(new.term, self._turns, self._failed):
            self._transport.post(scheduler.sender, holds)

    def _assigned(self, _: Delivery, assign: Assign) -> None:
        if self._terms.take(assign) and assign.decision.request_id not in self._failed:
            self._begin(assign)

    def _begin(self, assign: Assign) -> None:
        """Count the turn's reads as queued from here on: the next report has seen it."""
        turn, request = self._turn(assign.decision.request_id), assign.turn.request
        self._cache.use(chains_of(request))
        for extent in assign.decision.reads:
            if extent.side is self._side:
                read = HeldRead(extent, request, self._config.kv.block_tokens)
                turn.reads.append(read)
                turn.to_pull_tokens += read.last - read.first
                self._queue(read, self._cache.lacking(read.extents))
        if self._side is Side.DE:
            turn.roomless_tokens = sum(read.queued_tokens for read in turn.reads)
            self._roomless_tokens += turn.roomless_tokens
        self._tasks.start(self._live(turn, assign))

    async def _live(self, turn: HeldTurn, assign: Assign) -> None:
        side = self._prefill_side if self._side is Side.PE else self._decode_side
        try:
            await turn.life.play(side(turn, assign))
        finally:
            for read in turn.reads:
                self._queue(read, [])
            self._has_room(turn)
            del self._turns[turn.request]

    def _has_room(self, turn: HeldTurn) -> None:
        """It has its place in DRAM, or needs none any more."""
        self._roomless_tokens -= turn.roomless_tokens
        turn.roomless_tokens = 0

    async def _prefill_side(self, turn: HeldTurn, assign: Assign) -> None:
        async with self._ahead.of(turn.request):
            slot = await self._dram.take(assign.turn.request.hit_tokens, turn.request)
            try:
                await self._read_all(turn, assign, slot)
                await self._push(turn)
                self.account["turns"] += 1
            finally:
                self._dram.give(slot)

    async def _decode_side(self, turn: HeldTurn, assign: Assign) -> None:
        request, kv = assign.turn.request, self._config.kv
        slot = await self._dram.take(request.prompt_tokens, request.id)
        self._has_room(turn)
        try:
            prompt = Span("dram", slot, 0, request.prompt_tokens, 0, kv.layers)
            turn.expect(assign, kv)
            prefill = self._config.engine_hosts[assign.decision.pe]
            self._transport.post(prefill, Granted(request.id, prompt))
            await self._read_all(turn, assign, slot)
            if turn.reads:
                await self._push(turn)
            final = await turn.complete.wait(self._clock, self._config.deadline_s)
            await self._hand_over(turn, assign, final, prompt)
        finally:
            self._dram.give(slot)
        # What decode generates continues the prompt: its keys need the content until the end.
        await turn.kept.wait(self._clock, self._config.deadline_s)
        self.account["turns"] += 1

    async def _hand_over(
        self, turn: HeldTurn, assign: Assign, final: LayerDone, prompt: Span
    ) -> None:
        """Persist the prompt's new blocks; move the whole prompt into decode HBM."""
        request, block = assign.turn.request, self._config.kv.block_tokens
        decode = self._config.engine_hosts[assign.decision.de]
        first, last = blocks(request.hit_tokens, block), blocks(request.prompt_tokens, block)
        new = NewBlocks(
            Extent(request.chain, first, last - first),
            prompt.tokens(first * block, last * block),
            assign.turn.content,
            request.id,
            decode,
            turn.prompt_kept.set,
        )
        self._transport.post(decode, Admit(request.id, final.content))
        hbm = await turn.admitted.wait(self._clock, self._config.deadline_s)
        move = Write(prompt, hbm.tokens(0, request.prompt_tokens), Start(request.id), request.id)
        await self._bandwidth.turn(prompt)
        # Both moves read a slot that is given away next.
        await turn.life.see_through(self._move_and_keep(turn, decode, move, new))

    async def _move_and_keep(
        self, turn: HeldTurn, decode: str, move: Write, new: NewBlocks
    ) -> None:
        self._persister.keep(new)
        await self._send(decode, [move])
        await turn.prompt_kept.wait(self._clock, self._config.deadline_s)

    async def _read_all(self, turn: HeldTurn, assign: Assign, slot: int) -> None:
        """Storage to DRAM, Full Blocks; few reads at a time, the others queue here in order.

        What the cache has is not read. It may have other blocks by now than when they were queued.
        """
        layers, prefill = self._config.kv.layers, self._config.engine_hosts[assign.decision.pe]
        content = assign.turn.content
        for read in turn.reads:
            span = Span("dram", slot, read.first, read.last, 0, layers)
            await turn.life.see_through(self._fetch(turn, read, span, content))
            if read.lacking:
                async with self._reads.of(turn.request):
                    # A read under way is seen through even if its turn has failed meanwhile: what
                    # storage still writes must not land in a slot that already is another's.
                    await turn.life.see_through(self._read(turn, read, span, content))
            self.account["read_tokens"] += read.queued_tokens
            self._queue(read, [])
            loaded = Loaded(turn.request, self._side, span, read.first, read.last)
            self._transport.post(prefill, loaded)

    async def _fetch(self, turn: HeldTurn, read: HeldRead, span: Span, content: bytes) -> None:
        """Take from the cache what it has, and queue the rest."""
        try:
            self._queue(read, self._cache.fetch(read.extents, span, content))
        except KvDigestMismatch as error:
            return self._mismatch(turn, error)
        if hit_tokens := span.last - span.first - read.queued_tokens:
            before = self.cached_tokens.get(turn.request, 0)
            self.cached_tokens[turn.request] = before + hit_tokens

    async def _read(self, turn: HeldTurn, read: HeldRead, span: Span, content: bytes) -> None:
        """Read what the cache lacks of a span, check it, and let the cache keep it."""
        await self._bandwidth.turn(span.tokens(0, read.queued_tokens))
        asked: list[Arrival] = []
        for storage, part in parts_of(turn.request, read.lacking, span, self._config):
            arrival = self._arriving[part.into] = Arrival(part, storage)
            asked.append(arrival)
            self._transport.post(storage, part)
        come: list[tuple[Read, bytes]] = []
        reason = ""
        for arrival in asked:
            answer = await arrival.whole.wait(self._clock, self._config.deadline_s)
            del self._arriving[arrival.read.into]
            come.append((arrival.read, answer.digests))
            reason = reason or answer.error
        if reason:
            return self._fail(turn, reason)
        try:
            for part, digests in come:
                first = part.into.first // self._config.kv.block_tokens
                self._transport.check(part.into, content, first, digests)
        except KvDigestMismatch as error:
            return self._mismatch(turn, error)
        for part, digests in come:
            self._cache.keep(part.extents, part.into, digests)

    def _queue(self, read: HeldRead, lacking: list[Extent]) -> None:
        """Storage has to send so much for a read, whatever was said before."""
        tokens = 0
        for extent in lacking:
            tokens += extent.count * self._config.kv.block_tokens
        self._queued_tokens += tokens - read.queued_tokens
        read.lacking, read.queued_tokens = lacking, tokens

    def _mismatch(self, turn: HeldTurn, error: KvDigestMismatch) -> None:
        self.account["digest_failures"] += 1
        self._fail(turn, str(error))

    async def _push(self, turn: HeldTurn) -> None:
        """Layer Blocks from DRAM into prefill HBM; the next layer once this one is there."""
        prefill = await turn.pulled.wait(self._clock, self._config.deadline_s)
        for layer in range(self._config.kv.layers):
            writes = []
            for pull in turn.pulls:
                first, last = pull.first, pull.last
                note = LayerLoaded(pull.request, layer, first, last)
                source, into = (
                    pull.source.part(first, last, layer),
                    pull.into.part(first, last, layer),
                )
                await self._bandwidth.turn(source)
                writes.append(Write(source, into, note, pull.request))
            await self._send(prefill, writes)

    async def _send(self, engine: str, writes: list[Write]) -> None:
        for write in writes:
            self._sending.add(write.source)
        await self._transport.write(engine, writes, deadline_s=self._config.deadline_s)
        for write in writes:
            self._sending.add(write.source, -1)

    def _layer(self, _: Delivery, done: LayerDone) -> None:
        turn = self._turn(done.request)
        self._bandwidth.book(Span("dram", 0, 0, done.tokens, done.layer, done.layer + 1))
        turn.tokens_here += done.tokens
        turn.final = done if done.final else turn.final
        if turn.final is not None and turn.tokens_here == turn.tokens_due:
            turn.complete.set(turn.final)

    def _append(self, decode: Delivery, append: Append) -> None:
        turn = self._turn(append.request)
        extent = Extent(turn.chain, append.first_block, append.count)
        content = turn.content + append.generated
        self._persister.keep(
            NewBlocks(extent, append.span, content, append.request, decode.sender, turn.count_kept)
        )

    def _fail(self, turn: HeldTurn, reason: str) -> None:
        """End the turn here and tell everybody who may hold something of it."""
        for host in self._config.everyone:
            self._transport.post(host, TurnFailed(turn.request, reason))
        self._end(turn.request)

    def _end(self, request: int) -> None:
        self._failed.add(request)
        if request in self._turns:
            self._turns[request].life.end()

    def _turn(self, request: int) -> HeldTurn:
        turn = self._turns.get(request)
        if turn is None:
            turn = self._turns[request] = HeldTurn(request)
        return turn

    def _report(self) -> Report:
        queued_tokens = self._queued_tokens
        if not self._reads.full:
            # Then what has no room waits for that alone, and would whichever side read it. But
            # what is more than memory takes in one go will keep the NIC busy once it has room.
            queued_tokens -= min(self._roomless_tokens, self._config.dram_tokens)
        node = NodeReport(
            self._config.node, queued_tokens, self._terms.seen, self._clock.now_s(),
            self._dram.free_tokens, self._persister.unkept_tokens, self._sending.tokens,
        )  # fmt: skip
        return Report(self._config.group.name, (), (node,), self._terms.term)

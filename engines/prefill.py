"""A host of prefill GPUs (PEs): one lane a GPU, all lanes in lockstep.

The loop: receive, schedule, transfer and compute, account. Messages fill in `PrefillTurn`s; the
forward loop packs what is ready and runs it layer by layer while later layers still arrive.
"""

from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any

from engines.collective import Collective, Step
from engines.config import PrefillConfig
from engines.control import Reporter
from engines.handlers import Handlers
from engines.kv import Slots
from engines.messages import (
    Assign,
    Barrier,
    Drain,
    FirstToken,
    Granted,
    Join,
    LayerDone,
    LayerLoaded,
    Loaded,
    NewTerm,
    Pull,
    Report,
    TurnFailed,
)
from engines.prefill_turn import Batch, Forward, Lane, PrefillTurn
from engines.seams.clock import Clock
from engines.seams.compute import Compute, PrefillJob
from engines.seams.transport import Delivery, Transport, Write
from engines.tasks import Crew, Event
from engines.terms import Terms
from engines.waits import Arena
from scheduler.batch import Candidate, Chunk, pack
from scheduler.types import EngineReport, Side


class Prefill:
    """Runs forwards over whatever is ready; in basic mode loads and sends around the compute."""

    def __init__(
        self, config: PrefillConfig, clock: Clock, transport: Transport, compute: Compute
    ) -> None:
        self._config = config
        self._clock = clock
        self._transport = transport
        self._compute = compute
        self._turns: dict[int, PrefillTurn] = {}
        self._lanes = {name: Lane(name, config.kv.layers) for name in config.lanes}
        self._failed: set[int] = set()
        self._hbm = Arena(Slots(config.pool_tokens, config.kv.block_tokens), "prefill HBM")
        self._news = Event()
        self._due_s = 0.0
        self._terms = Terms()
        self._collective = Collective(
            config.host, config.group, clock, transport, config.deadline_s
        )
        self._reporter = Reporter(config.host, config.group, clock, transport, self._report)
        self._handlers = self._hears()
        self.forwards: list[Forward] = []
        self.exchanges: dict[str, Any] = {}
        self.account = {"no_hole": 0}

    async def run(self) -> None:
        """Receive until drained, with the forward loop beside."""
        async with Crew() as tasks:
            self._tasks = tasks
            tasks.start(self._reporter.run())
            tasks.start(self._forward_loop())
            tasks.start(self._transport.serve(self._act))
        self.exchanges = self._collective.account()
        self.account["no_hole"] = self._hbm.no_hole

    def waits(self) -> Iterator[str]:
        """What each turn lacks, in words; turns are passive here, and no task waits for it."""
        yield from self._hbm.waits()
        for turn in self._turns.values():
            if lacking := turn.lacks():
                yield f"turn {turn.request} for {lacking}"

    def _hears(self) -> Handlers:
        """What fills in a turn may come before the assignment that it belongs to."""
        hears = Handlers(self._config.host)
        hears.on(LayerLoaded, self._layer_loaded)
        hears.on(Assign, self._assigned)
        hears.on(Granted, self._granted)
        hears.on(Loaded, self._loaded)
        hears.on(Report, lambda member, report: self._reporter.hear(member.sender, report))
        hears.on(Join, self._exchanged)
        hears.on(Barrier, self._exchanged)
        hears.on(TurnFailed, lambda _, failed: self._forget(failed.request))
        hears.on(NewTerm, self._new_term)
        hears.on(Drain, lambda _, drain: self._tasks.dismiss())
        return hears

    def _act(self, delivery: Delivery) -> None:
        self._handlers[type(delivery.message)](delivery, delivery.message)

    def _layer_loaded(self, delivery: Delivery, loaded: LayerLoaded) -> None:
        self._turn(loaded.request).arrive(loaded, delivery.arrived_s)
        self._news.set()

    def _granted(self, _: Delivery, granted: Granted) -> None:
        turn = self._turn(granted.request)
        turn.granted = granted.slot
        self._go_on(turn)

    def _loaded(self, _: Delivery, loaded: Loaded) -> None:
        turn = self._turn(loaded.request)
        turn.load(loaded)
        self._go_on(turn)

    def _exchanged(self, peer: Delivery, message: Join | Barrier) -> None:
        self._collective.hear(peer.sender, message, peer.network_s)
        self._news.set()

    def _new_term(self, scheduler: Delivery, new: NewTerm) -> None:
        if holds := self._terms.begin(new.term, self._turns, self._failed):
            self._transport.post(scheduler.sender, holds)

    def _turn(self, request: int) -> PrefillTurn:
        """The turn that a message is about; of a failed one, nobody keeps what comes."""
        turn = self._turns.get(request)
        if turn is None:
            turn = PrefillTurn(request, self._config.kv.layers)
            if request not in self._failed:
                self._turns[request] = turn
        return turn

    def _assigned(self, _: Delivery, assign: Assign) -> None:
        request = assign.decision.request_id
        if request not in self._failed and self._terms.take(assign):
            turn = self._turn(request)
            turn.begin(assign, self._lanes[assign.decision.pe])
            self._go_on(turn)
            self._news.set()

    def _go_on(self, turn: PrefillTurn) -> None:
        """Load a turn that has become ready; in basic mode the forward that it is in does that."""
        if not turn.ready or turn.loading:
            return
        if not self._config.traits.layerwise:
            turn.runnable = True
            return self._news.set()
        turn.loading = True
        if self._seat(turn):
            self._pull(turn)
        else:
            self._tasks.start(self._load(turn))

    async def _load(self, turn: PrefillTurn) -> None:
        """Take HBM as it comes free, in order of asking."""
        turn.take(await self._hbm.take(turn.prompt_tokens, turn.request))
        self._pull(turn)

    def _seat(self, turn: PrefillTurn) -> bool:
        """Whether a turn has HBM; a batch that waited for it might wait for itself."""
        if turn.hbm is None and (slot := self._hbm.take_now(turn.prompt_tokens)) is not None:
            turn.take(slot)
        return turn.hbm is not None

    def _pull(self, turn: PrefillTurn) -> None:
        """Ask the buffers for the hit KV, layer by layer."""
        assert turn.hbm is not None
        if not turn.hit_tokens:  # nothing will arrive: it can run from now on
            turn.layer_at_s = [self._clock.now_s()] * self._config.kv.layers
            turn.runnable = True
            self._news.set()
        for part in turn.loaded:
            pull = Pull(turn.request, part.slot, turn.hbm, part.first, part.last)
            self._transport.post(self._buffer(turn, part.side), pull)

    async def _forward_loop(self) -> None:
        while True:
            batch = await self._next_batch()
            if self._config.traits.layerwise:
                await self._forward(batch)
            else:
                await self._forward_whole(batch)

    async def _next_batch(self) -> Batch:
        """What each lane runs next; waits until one has something, or a peer calls."""
        starved = False
        while True:
            self._news.clear()
            runnable = [
                [turn for turn in lane.turns if turn.runnable] for lane in self._lanes.values()
            ]
            # When the next forward can begin: at once, or when the first turn's KV came.
            arrivals = [turn.layer_at_s[0] for turns in runnable for turn in turns]
            start_s = max(self._due_s, min(arrivals, default=0.0))
            lanes = tuple([self._pack(turns, start_s) if turns else [] for turns in runnable])
            if any(lanes) or self._collective.called:
                hungry = tuple(
                    len(turns) < len(lane.turns)
                    for turns, lane in zip(runnable, self._lanes.values(), strict=True)
                )
                return Batch(lanes, hungry, starved)
            starved = starved or any(lane.turns for lane in self._lanes.values())
            await self._news.wait()

    def _pack(self, turns: list[PrefillTurn], start_s: float) -> list[Chunk]:
        """One lane's part: what was there at the start, though we may look a little later."""
        candidates = [
            Candidate(turn.request, turn.hit_tokens + turn.computed_tokens, turn.pending_tokens)
            for turn in turns
            if turn.layer_at_s[0] <= start_s
        ]
        chunks = pack(candidates, self._config.traits, self._config.gpu)
        if self._config.traits.layerwise:
            return chunks
        return list(takewhile(lambda chunk: self._seat(self._turns[chunk.request]), chunks))

    async def _forward(self, batch: Batch) -> None:
        """Layer by layer: wait for its KV, compute, pass the lockstep, send it on."""
        jobs = self._jobs(batch)
        finished = [self._turns[job.request] for job in jobs if job.final]
        step = await self._join(batch, self._latest_first_layer_s(jobs))
        begin_s = self._due_s
        for layer in range(self._config.kv.layers):
            arrived_s = await self._layer_here(jobs, layer)
            contents = await self._layer(jobs, layer, max(self._due_s, arrived_s), step)
            for target, turns in self._by_buffer(finished).items():
                self._tasks.start(self._send_layer(target, turns, layer, contents))
        self._settle(finished)
        self._account_for(batch, step, begin_s)

    async def _forward_whole(self, batch: Batch) -> None:
        """Without layerwise prefill: all of H2D, then all of the compute, then all of the sends."""
        layers = range(self._config.kv.layers)
        begin_s = max(self._due_s, self._clock.now_s())
        for turn in (self._turns[chunk.request] for chunk in batch.chunks):
            if not turn.loading:  # of a turn that was cut, it is here since its first chunk
                turn.loading = True
                self._pull(turn)
        jobs = self._jobs(batch)
        finished = [self._turns[job.request] for job in jobs if job.final]
        arrived_s = max([await self._layer_here(jobs, layer) for layer in layers])
        step = await self._join(batch, arrived_s)
        for layer in layers:
            contents = await self._layer(jobs, layer, self._due_s, step)
        self._account_for(batch, step, begin_s)
        self._settle(finished)
        async with Crew() as sends:
            for target, turns in self._by_buffer(finished).items():
                for layer in layers:
                    sends.start(self._send_layer(target, turns, layer, contents))
        self._due_s = max(self._due_s, self._clock.now_s())

    async def _join(self, batch: Batch, ready_s: float) -> Step:
        """Begin a step together with the group."""
        layers = self._config.kv.layers
        attention_s = max(batch.attention_s) / layers
        expert_s = batch.expert_s(self._config.gpu) / layers
        begin_s = max(self._due_s, ready_s)
        step = await self._collective.join(attention_s, expert_s, begin_s)
        self._due_s = step.start_s
        return step

    def _account_for(self, batch: Batch, step: Step, begin_s: float) -> None:
        span_s = (begin_s, self._due_s)
        self.forwards.append(Forward.of(batch, step, self._config.kv.layers, span_s))

    async def _layer(
        self, jobs: list[PrefillJob], layer: int, begin_s: float, step: Step
    ) -> dict[int, bytes]:
        """Compute one layer: attention, dispatch, experts, combine."""
        if self._collective.alone:
            contents = await self._compute.prefill(jobs, layer, begin_s + step.layer_s)
            self._due_s = begin_s + step.layer_s
            return contents
        tokens = sum(job.last - job.first for job in jobs)
        contents = await self._compute.prefill(jobs, layer, begin_s + step.attention_s)
        met_s = await self._collective.dispatch(layer, begin_s + step.attention_s, tokens)
        due_s = met_s + step.expert_s
        # The way back on an idle network is part of the layer: it ends when the layer does.
        await self._clock.sleep_until_s(due_s - self._collective.way_back_s(tokens))
        self._due_s = await self._collective.combine(layer, due_s)
        return contents

    def _jobs(self, batch: Batch) -> list[PrefillJob]:
        jobs = []
        for chunk in batch.chunks:
            turn = self._turns[chunk.request]
            assert turn.hbm is not None and turn.assign is not None
            first = turn.hit_tokens + turn.computed_tokens
            last = first + chunk.tokens
            turn.computed_tokens += chunk.tokens
            content, final = turn.assign.turn.content, last == turn.prompt_tokens
            jobs.append(PrefillJob(turn.request, turn.hbm, content, first, last, final))
        return jobs

    async def _layer_here(self, jobs: Iterable[PrefillJob], layer: int) -> float:
        """Wait for one layer's hit KV of the whole batch; returns when the last of it came."""
        turns = [self._turns[job.request] for job in jobs]
        with self._clock.deadline(self._config.deadline_s, f"layer {layer} of a prefill's KV"):
            while not all(turn.has_layer(layer) for turn in turns):
                self._news.clear()
                await self._news.wait()
        return max((turn.layer_at_s[layer] for turn in turns), default=0.0)

    def _latest_first_layer_s(self, jobs: Iterable[PrefillJob]) -> float:
        return max((self._turns[job.request].layer_at_s[0] for job in jobs), default=0.0)

    def _by_buffer(self, turns: list[PrefillTurn]) -> dict[str, list[PrefillTurn]]:
        """Finished turns by the DE buffer that their KV goes to."""
        found: dict[str, list[PrefillTurn]] = {}
        for turn in turns:
            found.setdefault(self._buffer(turn, Side.DE), []).append(turn)
        return found

    async def _send_layer(
        self, target: str, turns: list[PrefillTurn], layer: int, contents: dict[int, bytes]
    ) -> None:
        """One layer's KV to a DE buffer; free each HBM once all its layers are acknowledged."""
        last_layer = layer == self._config.kv.layers - 1
        writes, sending = [], []
        for turn in turns:
            assert turn.granted is not None and turn.hbm is not None
            # A prompt of hits alone leaves nothing to send but the doorbell.
            ranges = turn.missing_ranges() or [(turn.prompt_tokens, turn.prompt_tokens)]
            for index, (first, last) in enumerate(ranges):
                final = last_layer and index == len(ranges) - 1
                content = contents[turn.request] if final else b""
                note = LayerDone(turn.request, layer, last - first, final, content)
                source = turn.hbm.part(first, last, layer)
                into = turn.granted.part(first, last, layer)
                writes.append(Write(source, into, note, turn.request))
                turn.lane.sending.add(source)
                sending.append((turn.lane.sending, source))
        await self._transport.write(target, writes, deadline_s=self._config.deadline_s)
        for backlog, source in sending:
            backlog.add(source, -1)
        for turn in turns:
            turn.sends_left -= 1
            if turn.sends_left == 0:
                assert turn.hbm is not None
                self._hbm.give(turn.hbm.slot)
                del self._turns[turn.request]

    def _buffer(self, turn: PrefillTurn, side: Side) -> str:
        assert turn.assign is not None
        decision = turn.assign.decision
        engine = decision.pe if side is Side.PE else decision.de
        return self._config.buffers[engine.split("/")[0]]

    def _settle(self, finished: list[PrefillTurn]) -> None:
        """The forward's end: finished turns leave their lane, clients hear of first tokens."""
        at_s = max(self._due_s, self._clock.now_s())
        for turn in finished:
            turn.lane.leave(turn)
            self._transport.post(self._config.client, FirstToken(turn.request, at_s))

    def _forget(self, request: int) -> None:
        """A turn failed before its prefill: nothing of it is in a forward yet."""
        self._failed.add(request)
        turn = self._turns.pop(request, None)
        if turn is not None and turn.hbm is not None:
            self._hbm.give(turn.hbm.slot)
        if turn is not None and turn.assign is not None:
            turn.lane.leave(turn)
        self._news.set()

    def _report(self) -> Report:
        free, seen = self._hbm.free_tokens, self._terms.seen
        engines = [
            EngineReport(lane.name, len(lane.turns), lane.tokens, free, seen, lane.sending.tokens)
            for lane in self._lanes.values()
        ]
        return Report(self._config.group.name, tuple(engines), (), self._terms.term)

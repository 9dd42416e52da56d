"""A host of decode GPUs (DEs): continuous batching of everything that fits into HBM.

A turn's life is one coroutine, `_live`; the tick loop computes for all of them. A tick comes
several times per decode quantum and takes every sequence whose next quantum ends before the
tick after it, so steps share batches while each token keeps its modelled time.
"""

from collections import Counter
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any

import xxhash

from engines.collective import Collective
from engines.config import DecodeConfig
from engines.control import Reporter
from engines.decode_turn import Completed, Lane, Paused, Sequence
from engines.handlers import Handlers
from engines.kv import Slots, Span
from engines.messages import (
    Admit,
    Admitted,
    Append,
    Assign,
    Barrier,
    Drain,
    Join,
    NewTerm,
    Persisted,
    Report,
    Start,
    TurnDone,
    TurnFailed,
)
from engines.seams.clock import Clock
from engines.seams.compute import Compute, DecodeJob
from engines.seams.transport import Delivery, Transport, Write
from engines.tasks import Crew
from engines.terms import Terms
from engines.waits import Arena


class Decode:
    """Admits turns while HBM lasts, ticks, persists blocks as they complete, tells the client."""

    def __init__(
        self, config: DecodeConfig, clock: Clock, transport: Transport, compute: Compute
    ) -> None:
        self._config = config
        self._clock = clock
        self._transport = transport
        self._compute = compute
        block = config.kv.block_tokens
        self._lanes = {
            name: Lane(name, number, config.lane_tokens, config.kv)
            for number, name in enumerate(config.lanes)
        }
        self._outbox = Arena(Slots(config.persist_tokens, block), "room for blocks on their way")
        self._sequences: dict[int, Sequence] = {}
        self._running: dict[int, Sequence] = {}
        self._busy_lanes = 0
        # When each running turn's next one is due, on a clock that pauses with late steps.
        self._quanta: list[tuple[float, int]] = []
        self._paused = Paused()
        self._outgoing: Counter[int] = Counter()  # writes of the outbox's slots not yet kept
        self._failed: set[int] = set()
        self._terms = Terms()
        self._collective = Collective(
            config.host, config.group, clock, transport, config.deadline_s
        )
        self._reporter = Reporter(config.host, config.group, clock, transport, self._report)
        self._handlers = self._hears()
        self.exchanges: dict[str, Any] = {}
        self.account = {
            "turns": 0, "ticks": 0, "late_ticks": 0, "quanta": 0, "busy_s": 0.0,
            "no_hole": 0,
        }  # fmt: skip

    async def run(self) -> None:
        """Receive until drained, with the tick loop beside."""
        async with Crew() as tasks:
            self._tasks = tasks
            tasks.start(self._reporter.run())
            tasks.start(self._tick_loop())
            tasks.start(self._transport.serve(self._act))
        self.exchanges = self._collective.account()
        self.account["no_hole"] = sum(lane.hbm.no_hole for lane in self._lanes.values())

    def waits(self) -> Iterator[str]:
        """Turns in line for HBM, or for room for their blocks, in words."""
        for arena in (*(lane.hbm for lane in self._lanes.values()), self._outbox):
            yield from arena.waits()

    def _hears(self) -> Handlers:
        hears = Handlers(self._config.host)
        hears.on(Persisted, lambda _, persisted: self._kept(persisted))
        hears.on(Report, lambda member, report: self._reporter.hear(member.sender, report))
        hears.on(Assign, self._assigned)
        hears.on(Admit, self._admit)
        hears.on(Start, lambda at, start: self._sequence(start.request).started.set(at.arrived_s))
        hears.on(TurnFailed, lambda _, failed: self._end(failed.request))
        hears.on(Join, self._exchanged)
        hears.on(Barrier, self._exchanged)
        hears.on(NewTerm, self._new_term)
        hears.on(Drain, lambda _, drain: self._tasks.dismiss())
        return hears

    def _act(self, delivery: Delivery) -> None:
        self._handlers[type(delivery.message)](delivery, delivery.message)

    def _assigned(self, _: Delivery, assign: Assign) -> None:
        if self._terms.take(assign) and assign.decision.request_id not in self._failed:
            self._begin(assign)

    def _admit(self, buffer: Delivery, prompt: Admit) -> None:
        sequence = self._sequence(prompt.request)
        sequence.buffer = buffer.sender
        sequence.admit.set(prompt)

    def _exchanged(self, peer: Delivery, message: Join | Barrier) -> None:
        self._collective.hear(peer.sender, message, peer.network_s)

    def _end(self, request: int) -> None:
        self._failed.add(request)
        if request in self._sequences:
            self._sequences[request].life.end()

    def _new_term(self, scheduler: Delivery, new: NewTerm) -> None:
        # A turn that is over in decode is over as a whole.
        if holds := self._terms.begin(new.term, self._sequences):
            self._transport.post(scheduler.sender, holds)

    def _begin(self, assign: Assign) -> None:
        sequence = self._sequence(assign.decision.request_id)
        sequence.begin(assign, self._config.kv)
        self._lanes[sequence.lane].enter(sequence)
        self._tasks.start(self._live(sequence))

    async def _live(self, sequence: Sequence) -> None:
        try:
            await sequence.life.play(self._turn(sequence))
        finally:
            self._lanes[sequence.lane].leave(sequence)
            del self._sequences[sequence.request.id]

    async def _turn(self, sequence: Sequence) -> None:
        prompt = await sequence.admit.wait(self._clock, self._config.deadline_s)
        fingerprint = await self._decode(sequence, prompt)
        self._tell(sequence, fingerprint)

    async def _decode(self, sequence: Sequence, prompt: Admit) -> str:
        """Hold HBM from the prompt's H2D to the last token and the last block kept."""
        deadline_s, lane = self._config.deadline_s, self._lanes[sequence.lane]
        slot = await lane.seat(sequence, self._config.kv.layers)
        try:
            self._transport.post(sequence.buffer, Admitted(sequence.request.id, slot))
            at_s = await sequence.started.wait(self._clock, deadline_s)
            sequence.start(at_s, prompt, self._paused)
            fingerprint = self._sample(sequence)
            self._run(sequence, lane)
            await self._last_token(sequence)
            await sequence.computed.wait(self._clock, deadline_s)
            await sequence.persisted.wait(self._clock, deadline_s)
            return fingerprint
        finally:
            if self._running.pop(sequence.request.id, None) is not None:
                lane.decoding -= 1
                self._busy_lanes -= lane.decoding == 0
            lane.rise(sequence)

    async def _last_token(self, sequence: Sequence) -> None:
        """Until it is out; steps that are late meanwhile put that off."""
        last, tpot_s = sequence.request.generate_tokens, self._config.tpot_s
        paused_s = -1.0
        while paused_s != self._paused.sum_s:
            paused_s = self._paused.sum_s
            await self._clock.sleep_until_s(sequence.token_s(last, tpot_s))

    def _run(self, sequence: Sequence, lane: Lane) -> None:
        """Ticks compute for it from now on."""
        self._running[sequence.request.id] = sequence
        self._busy_lanes += lane.decoding == 0
        lane.decoding += 1
        self._next_quantum(sequence)

    def _next_quantum(self, sequence: Sequence) -> None:
        if sequence.position >= sequence.end:
            return sequence.computed.set(True)
        due_s = sequence.quantum_s(self._config.kv, self._config.tpot_s)
        heappush(self._quanta, (due_s, sequence.request.id))

    def _tell(self, sequence: Sequence, fingerprint: str) -> None:
        tpot_s, last = self._config.tpot_s, sequence.request.generate_tokens
        done = TurnDone(
            sequence.request.id,
            sequence.generated,
            sequence.start_s,
            sequence.token_s(2, tpot_s),
            max(sequence.token_s(last, tpot_s), self._clock.now_s()),
            fingerprint,
        )
        self.account["turns"] += 1
        self._transport.post(self._config.client, done)
        self._transport.post(self._config.scheduler, done)

    async def _tick_loop(self) -> None:
        period_s = self._config.kv.quantum_tokens * self._config.tpot_s / self._config.phases
        tick = int(self._clock.now_s() / period_s)
        while True:
            tick += 1
            tick_s = self._paused.target_s(tick * period_s)
            next_s = self._paused.target_s((tick + 1) * period_s)
            await self._next_tick(tick_s)
            self.account["ticks"] += 1
            self.account["late_ticks"] += self._clock.now_s() > next_s
            self.account["busy_s"] += period_s * self._busy_lanes / len(self._lanes)
            await self._step(self._due((tick + 1) * period_s), tick_s)

    async def _next_tick(self, when_s: float) -> None:
        """A tick with quanta left to compute is work; one without is a heart-beat."""
        if self._quanta:
            await self._clock.sleep_until_s(when_s)
        else:
            await self._clock.beat_until_s(when_s)

    def _due(self, horizon_s: float) -> list[Sequence]:
        """Running turns whose next quantum ends by then."""
        batch = []
        while self._quanta and self._quanta[0][0] <= horizon_s:
            _, request = heappop(self._quanta)
            if sequence := self._running.get(request):  # or it failed meanwhile
                batch.append(sequence)
        return batch

    async def _step(self, batch: list[Sequence], tick_s: float) -> None:
        """One step of continuous batching, in lockstep with the group where there is one.

        It takes modelled time, of all that decode here, only if its exchanges were late.
        """
        if not batch and self._collective.alone:
            return
        now_s = self._clock.now_s()
        ended_s = (await self._collective.join(0.0, 0.0, tick_s)).start_s
        jobs = [
            DecodeJob(seq.request.id, seq.in_hbm, seq.next_content, seq.position) for seq in batch
        ]
        results = await self._compute.decode(jobs, now_s) if jobs else []
        tokens = len(batch) * self._config.kv.quantum_tokens
        for layer in range(self._config.kv.layers):
            ended_s = await self._collective.dispatch(layer, ended_s, tokens)
            ended_s = await self._collective.combine(layer, ended_s)
        if ended_s > tick_s:
            self._paused.pause(tick_s, ended_s - tick_s)
        self.account["quanta"] += len(batch)
        for sequence, content in zip(batch, results, strict=True):
            sequence.advance(content, self._config.kv)
            if sequence.request.id in self._running:
                self._next_quantum(sequence)
        for some in self._within_outbox([seq.completed(self._config.kv) for seq in batch]):
            self._tasks.start(self._persist(some))

    def _within_outbox(self, completed: list[Completed]) -> list[list[Completed]]:
        """What there is to persist, in lists that each fit into an empty outbox."""
        lists: list[list[Completed]] = []
        room = 0
        for one in completed:
            if not one.count:
                continue
            if one.count > room:
                lists.append([])
                room = self._config.persist_tokens // self._config.kv.block_tokens
            lists[-1].append(one)
            room -= one.count
        return lists

    async def _persist(self, completed: list[Completed]) -> None:
        """Full Blocks that a step completed: HBM to the node's buffer, then to storage."""
        kv, at = self._config.kv, 0
        tokens = sum([one.count for one in completed]) * kv.block_tokens
        place = await self._outbox.take(tokens, completed[0].request)
        self._outgoing[place] = len(completed)
        out = Span("persist", self._config.persist_base + place, 0, 0, 0, kv.layers)
        writes = []
        for one in completed:
            into = out.tokens(at, at + one.count * kv.block_tokens)
            at = into.last
            note = Append(one.request, one.first, one.count, into, one.generated)
            writes.append(Write(one.source, into, note, one.request))
            self._lanes[one.lane].sending.add(one.source)
        await self._transport.write(self._config.buffer, writes, deadline_s=self._config.deadline_s)
        for one in completed:
            self._lanes[one.lane].sending.add(one.source, -1)

    def _kept(self, persisted: Persisted) -> None:
        for kept in persisted.kept:
            if kept.span.region == "persist":
                place = kept.span.slot - self._config.persist_base
                self._outgoing[place] -= 1
                if not self._outgoing[place]:
                    self._outbox.give(place)
            sequence = self._sequence(kept.request)
            sequence.blocks_kept += kept.extent.count
            if sequence.blocks_kept == sequence.blocks_total:
                sequence.persisted.set(True)

    def _sample(self, sequence: Sequence) -> str:
        """The KV's fingerprint at decode start, on a share of turns that their numbers draw."""
        request = sequence.request
        drawn = xxhash.xxh3_64_intdigest(request.id.to_bytes(8, "little")) / 2**64
        if drawn >= self._config.kv_samples:
            return ""
        return self._compute.fingerprint(sequence.in_hbm.tokens(0, request.prompt_tokens))

    def _sequence(self, request: int) -> Sequence:
        sequence = self._sequences.get(request)
        if sequence is None:
            sequence = self._sequences[request] = Sequence(request)
        return sequence

    def _report(self) -> Report:
        parked, seen = self._config.parked_tokens, self._terms.seen
        engines = [lane.report(parked, seen) for lane in self._lanes.values()]
        return Report(self._config.group.name, tuple(engines), (), self._terms.term)

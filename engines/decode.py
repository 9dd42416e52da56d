"""A host of decode GPUs (DEs): continuous batching of everything that fits into HBM.

A turn's life is one coroutine, `_live`; the tick loop computes for all of them. A tick comes
several times per decode quantum and takes every sequence whose next quantum ends before the
tick after it, so steps share batches while each token keeps its modelled time.
"""

import random

import anyio
from anyio.abc import TaskGroup

from engines.collective import Collective
from engines.config import DecodeConfig, KvShape
from engines.control import Reporter
from engines.errors import EngineError
from engines.kv import Slots, Span, address_space, blocks, round_up
from engines.messages import (
    Admit,
    Admitted,
    Append,
    Assign,
    Barrier,
    Drain,
    Join,
    Message,
    Persisted,
    Report,
    Start,
    TurnDone,
    TurnFailed,
)
from engines.seams.clock import Clock
from engines.seams.compute import Compute, DecodeJob
from engines.seams.transport import Transport, Write
from engines.waits import Arena, Awaited
from scheduler.types import EngineReport


class Sequence:
    """A turn in decode: what is generated, what is due next, and how far it is persisted."""

    def __init__(self, request: int) -> None:
        self.scope = anyio.CancelScope()
        self.admit: Awaited[Admit] = Awaited(f"the prompt of turn {request}")
        self.started: Awaited[float] = Awaited(f"the KV of turn {request} in HBM")
        self.computed: Awaited[bool] = Awaited(f"the last token of turn {request}")
        self.persisted: Awaited[bool] = Awaited(f"the last block of turn {request}")
        self.buffer = ""
        self.hbm_tokens = 0
        self.lane = ""
        self.slot: Span | None = None
        self.blocks_kept = 0

    def begin(self, assign: Assign, kv: KvShape) -> None:
        """Take what the assignment says; the prompt itself comes with `admit`."""
        request = self.request = assign.turn.request
        self.lane = assign.decision.de
        self.hbm_tokens = round_up(request.context_tokens, kv.block_tokens)
        self.position = request.prompt_tokens // kv.quantum_tokens * kv.quantum_tokens
        self.end = request.context_tokens // kv.quantum_tokens * kv.quantum_tokens
        self.blocks_kept += blocks(request.hit_tokens, kv.block_tokens)
        self.blocks_sent = blocks(request.prompt_tokens, kv.block_tokens)
        self.blocks_total = blocks(request.context_tokens, kv.block_tokens)

    def start(self, at_s: float, prompt: Admit) -> None:
        """The prompt's KV is in HBM; what the prefill generated is processed first."""
        self.start_s = at_s
        self.next_content = prompt.content
        self.generated = b""

    @property
    def in_hbm(self) -> Span:
        """Where its KV lies, once it decodes."""
        assert self.slot is not None
        return self.slot

    def token_s(self, number: int, tpot_s: float) -> float:
        """When generated token `number` is out; number 1 came from the prefill."""
        return self.start_s + max(0, number - 1) * tpot_s

    def quantum_s(self, kv: KvShape, tpot_s: float) -> float:
        """When the last real token of the next quantum is out."""
        number = self.position + kv.quantum_tokens - self.request.prompt_tokens
        return self.token_s(number, tpot_s)


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
        self._hbm = {lane: Arena(Slots(config.lane_tokens, block)) for lane in config.lanes}
        self._lane_base = {
            lane: index * address_space(config.lane_tokens, block)
            for index, lane in enumerate(config.lanes)
        }
        self._outbox = Arena(Slots(config.persist_tokens, block))
        self._sequences: dict[int, Sequence] = {}
        self._running: dict[int, Sequence] = {}
        self._failed: set[int] = set()
        self._seen = 0
        self._collective = Collective(
            config.host, config.group, clock, transport, config.deadline_s
        )
        self._reporter = Reporter(config.host, config.group, clock, transport, self._report)
        self.account = {
            "turns": 0, "ticks": 0, "late_ticks": 0, "quanta": 0, "busy_s": 0.0,
            "no_hole": 0,
        }  # fmt: skip

    async def run(self) -> None:
        """Receive until drained, with the tick loop beside."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._reporter.run)
            tasks.start_soon(self._tick_loop, tasks)
            while True:
                delivery = await self._transport.receive()
                if isinstance(delivery.message, Drain):
                    tasks.cancel_scope.cancel()
                    self.account["no_hole"] = sum(arena.no_hole for arena in self._hbm.values())
                    return
                self._act(delivery.sender, delivery.message, delivery.arrived_s, tasks)

    def _act(self, sender: str, message: Message, at_s: float, tasks: TaskGroup) -> None:
        match message:
            case Assign() if message.decision.request_id in self._failed:
                self._seen = message.decision.seq
            case Assign():
                self._seen = message.decision.seq
                self._sequence(message.decision.request_id).begin(message, self._config.kv)
                tasks.start_soon(self._live, message)
            case Admit():
                sequence = self._sequence(message.request)
                sequence.buffer = sender
                sequence.admit.set(message)
            case Start():
                self._sequence(message.request).started.set(at_s)
            case Persisted():
                self._kept(message)
            case TurnFailed():
                self._failed.add(message.request)
                if message.request in self._sequences:
                    self._sequences[message.request].scope.cancel()
            case Report():
                self._reporter.hear(sender, message)
            case Join() | Barrier():
                self._collective.hear(sender, message)
            case other:
                raise EngineError(f"{self._config.host} cannot use {type(other).__name__}")

    async def _live(self, assign: Assign) -> None:
        sequence = self._sequence(assign.decision.request_id)
        try:
            with sequence.scope:
                prompt = await sequence.admit.wait(self._clock, self._config.deadline_s)
                fingerprint = await self._decode(sequence, prompt)
                await self._tell(sequence, fingerprint)
        finally:
            del self._sequences[assign.decision.request_id]

    async def _decode(self, sequence: Sequence, prompt: Admit) -> str:
        """Hold HBM from the prompt's H2D to the last token and the last block kept."""
        deadline_s, arena = self._config.deadline_s, self._hbm[sequence.lane]
        place = await arena.take(sequence.hbm_tokens)
        try:
            slot = sequence.slot = Span(
                "hbm", self._lane_base[sequence.lane] + place, 0,
                sequence.request.context_tokens, 0,
                self._config.kv.layers,
            )  # fmt: skip
            await self._transport.send(sequence.buffer, Admitted(sequence.request.id, slot))
            at_s = await sequence.started.wait(self._clock, deadline_s)
            sequence.start(at_s, prompt)
            fingerprint = self._sample(sequence)
            self._running[sequence.request.id] = sequence
            self._check_computed(sequence)
            await sequence.computed.wait(self._clock, deadline_s)
            last = sequence.request.generate_tokens
            await self._clock.sleep_until_s(sequence.token_s(last, self._config.tpot_s))
            await sequence.persisted.wait(self._clock, deadline_s)
            return fingerprint
        finally:
            self._running.pop(sequence.request.id, None)
            arena.give(place)

    async def _tell(self, sequence: Sequence, fingerprint: str) -> None:
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
        await self._transport.send(self._config.client, done)
        await self._transport.send(self._config.scheduler, done)

    async def _tick_loop(self, tasks: TaskGroup) -> None:
        kv, tpot_s = self._config.kv, self._config.tpot_s
        period_s = kv.quantum_tokens * tpot_s / self._config.phases
        tick = int(self._clock.now_s() / period_s)
        while True:
            tick += 1
            await self._clock.sleep_until_s(tick * period_s)
            self.account["ticks"] += 1
            self.account["late_ticks"] += self._clock.now_s() > (tick + 1) * period_s
            lanes = {sequence.lane for sequence in self._running.values()}
            self.account["busy_s"] += period_s * len(lanes) / len(self._config.lanes)
            horizon_s = (tick + 1) * period_s
            batch = [
                sequence
                for sequence in self._running.values()
                if sequence.position < sequence.end and sequence.quantum_s(kv, tpot_s) <= horizon_s
            ]
            await self._step(batch, tasks)

    async def _step(self, batch: list[Sequence], tasks: TaskGroup) -> None:
        """One step of continuous batching, in lockstep with the group where there is one."""
        now_s = self._clock.now_s()
        await self._collective.join(0.0, now_s)
        jobs = [
            DecodeJob(seq.request.id, seq.in_hbm, seq.next_content, seq.position) for seq in batch
        ]
        results = await self._compute.decode(jobs, now_s) if jobs else []
        for layer in range(self._config.kv.layers):
            await self._collective.barrier(layer, now_s)
        for sequence, content in zip(batch, results, strict=True):
            sequence.generated += sequence.next_content
            sequence.next_content = content
            sequence.position += self._config.kv.quantum_tokens
            self.account["quanta"] += 1
            self._check_computed(sequence)
            tasks.start_soon(self._persist, sequence, sequence.position)

    def _check_computed(self, sequence: Sequence) -> None:
        if sequence.position >= sequence.end:
            sequence.computed.set(True)

    async def _persist(self, sequence: Sequence, position: int) -> None:
        """Full Blocks that the quantum completed: HBM to the node's buffer, then to storage."""
        kv = self._config.kv
        first, last = sequence.blocks_sent, blocks(position, kv.block_tokens)
        if last <= first:
            return
        sequence.blocks_sent = last
        tokens = (last - first) * kv.block_tokens
        place = await self._outbox.take(tokens)
        out = Span("persist", self._config.persist_base + place, 0, tokens, 0, kv.layers)
        note = Append(sequence.request.id, first, last - first, out, sequence.generated)
        source = sequence.in_hbm.tokens(first * kv.block_tokens, last * kv.block_tokens)
        write = Write(source, out, note, sequence.request.id)
        await self._transport.write(self._config.buffer, write, deadline_s=self._config.deadline_s)

    def _kept(self, done: Persisted) -> None:
        if done.span.region == "persist":
            self._outbox.give(done.span.slot - self._config.persist_base)
        sequence = self._sequence(done.request)
        sequence.blocks_kept += done.extent.count
        if sequence.blocks_kept == sequence.blocks_total:
            sequence.persisted.set(True)

    def _sample(self, sequence: Sequence) -> str:
        """The KV's fingerprint at decode start, on a seeded share of turns."""
        request = sequence.request
        if random.Random(request.id).random() >= self._config.kv_samples:
            return ""
        return self._compute.fingerprint(sequence.in_hbm.tokens(0, request.prompt_tokens))

    def _sequence(self, request: int) -> Sequence:
        sequence = self._sequences.get(request)
        if sequence is None:
            sequence = self._sequences[request] = Sequence(request)
        return sequence

    def _report(self) -> Report:
        held: dict[str, list[Sequence]] = {lane: [] for lane in self._config.lanes}
        for sequence in self._sequences.values():
            if sequence.lane:
                held[sequence.lane].append(sequence)
        engines = [
            EngineReport(
                lane,
                len(sequences),
                sum(sequence.request.context_tokens for sequence in sequences),
                self._free_tokens(lane, sequences),
                self._seen,
            )
            for lane, sequences in held.items()
        ]
        return Report(self._config.group.name, tuple(engines), ())

    def _free_tokens(self, lane: str, sequences: list[Sequence]) -> int:
        """HBM that can be promised: turns before their decode park in the buffer's DRAM first.

        They hold no HBM during their prefill (DualPath section 3, "Decode start"), but what the
        buffer cannot park will want some as soon as it comes.
        """
        promised = sum(seq.hbm_tokens for seq in sequences if seq.slot is None)
        free = self._hbm[lane].free_tokens - max(0, promised - self._config.parked_tokens)
        return max(0, free)

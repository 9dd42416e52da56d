"""A host of prefill GPUs (PEs): one lane a GPU, all lanes in lockstep.

The loop: receive, schedule, transfer and compute, account. Messages fill in `PrefillTurn`s; the
forward loop packs what is ready and runs it layer by layer while later layers still arrive.
"""

from collections.abc import Iterable

import anyio
import msgspec
from anyio.abc import TaskGroup

from engines.collective import Collective
from engines.config import PrefillConfig
from engines.control import Reporter
from engines.errors import EngineError
from engines.kv import Slots, Span
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
    Message,
    Pull,
    Report,
    TurnFailed,
)
from engines.seams.clock import Clock
from engines.seams.compute import Compute, PrefillJob
from engines.seams.transport import Transport, Write
from engines.waits import Arena
from scheduler.batch import Candidate, Chunk, pack
from scheduler.types import EngineReport, Side


class PrefillTurn:
    """One turn on its way through a PE; `ready` once both buffers hold their part of it."""

    def __init__(self, request: int, layers: int) -> None:
        self.request = request
        self.assign: Assign | None = None
        self.granted: Span | None = None
        self.loaded: list[Loaded] = []
        self.hbm: Span | None = None
        self.layer_tokens = [0] * layers
        self.layer_at_s = [0.0] * layers
        self.computed_tokens = 0
        self.sends_left = layers
        self.loading = False

    @property
    def prompt_tokens(self) -> int:
        assert self.assign is not None
        return self.assign.turn.request.prompt_tokens

    @property
    def hit_tokens(self) -> int:
        assert self.assign is not None
        return self.assign.turn.request.hit_tokens

    @property
    def ready(self) -> bool:
        """Assigned, a slot in the DE buffer, and all hit KV in DRAM on either side."""
        if self.assign is None or self.granted is None:
            return False
        return sum(part.last - part.first for part in self.loaded) == self.hit_tokens

    def has_layer(self, layer: int) -> bool:
        return self.layer_tokens[layer] == self.hit_tokens

    @property
    def pending_tokens(self) -> int:
        return self.prompt_tokens - self.hit_tokens - self.computed_tokens

    def missing_ranges(self) -> list[tuple[int, int]]:
        """Tokens that the DE buffer does not have: all but what was read on its side."""
        held = sorted((part.first, part.last) for part in self.loaded if part.side is Side.DE)
        ranges, at = [], 0
        for first, last in [*held, (self.prompt_tokens, self.prompt_tokens)]:
            if first > at:
                ranges.append((at, first))
            at = last
        return ranges


class Forward(msgspec.Struct, frozen=True):
    """One forward, for the account, in target seconds.

    `compute_s` is the lockstep's time, that of the slowest lane of the group; `lanes_s` is each
    lane's own. What remains of the span waited for KV. `starved`: so did the gap before it.
    """

    begin_s: float
    end_s: float
    compute_s: float
    lanes_s: tuple[float, ...]
    chunks: int
    starved: bool


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
        self._lanes: dict[str, list[int]] = {lane: [] for lane in config.lanes}
        self._failed: set[int] = set()
        self._hbm = Arena(Slots(config.pool_tokens, config.kv.block_tokens))
        self._news = anyio.Event()
        self._due_s = 0.0
        self._seen = 0
        self._collective = Collective(
            config.host, config.group, clock, transport, config.deadline_s
        )
        self._reporter = Reporter(config.host, config.group, clock, transport, self._report)
        self.forwards: list[Forward] = []

    async def run(self) -> None:
        """Receive until drained, with the forward loop beside."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._reporter.run)
            tasks.start_soon(self._forward_loop, tasks)
            while True:
                delivery = await self._transport.receive()
                if isinstance(delivery.message, Drain):
                    tasks.cancel_scope.cancel()
                    return
                self._note(delivery.sender, delivery.message, delivery.arrived_s, tasks)

    def _note(self, sender: str, message: Message, at_s: float, tasks: TaskGroup) -> None:
        """Fill in what a message says; it may come before the assignment it belongs to."""
        match message:
            case Join() | Barrier():
                self._collective.hear(sender, message)
            case Report():
                self._reporter.hear(sender, message)
                return
            case TurnFailed():
                self._forget(message.request)
            case Assign() | Granted() | Loaded() | LayerLoaded():
                self._advance(message, at_s, tasks)
            case other:
                raise EngineError(f"{self._config.host} cannot use {type(other).__name__}")
        self._news.set()

    def _advance(
        self, message: Assign | Granted | Loaded | LayerLoaded, at_s: float, tasks: TaskGroup
    ) -> None:
        request = message.decision.request_id if isinstance(message, Assign) else message.request
        if request in self._failed:
            return
        layers = self._config.kv.layers
        turn = self._turns.setdefault(request, PrefillTurn(request, layers))
        match message:
            case Assign():
                turn.assign = message
                self._seen = message.decision.seq
                self._lanes[message.decision.pe].append(request)
            case Granted():
                turn.granted = message.slot
            case Loaded():
                turn.loaded.append(message)
            case LayerLoaded():
                turn.layer_tokens[message.layer] += message.last - message.first
                turn.layer_at_s[message.layer] = at_s
        if turn.ready and not turn.loading and self._config.traits.layerwise:
            turn.loading = True
            tasks.start_soon(self._load, turn)

    async def _load(self, turn: PrefillTurn) -> None:
        """Take HBM and ask the buffers for the hit KV, layer by layer."""
        slot = await self._hbm.take(turn.prompt_tokens)
        turn.hbm = Span("hbm", slot, 0, turn.prompt_tokens, 0, self._config.kv.layers)
        self._news.set()
        for part in turn.loaded:
            pull = Pull(turn.request, part.slot, turn.hbm, part.first, part.last)
            await self._transport.send(self._buffer(turn, part.side), pull)

    async def _forward_loop(self, tasks: TaskGroup) -> None:
        while True:
            batch, starved = await self._next_batch()
            if self._config.traits.layerwise:
                await self._forward(batch, starved, tasks)
            else:
                await self._forward_whole(batch, starved, tasks)

    async def _next_batch(self) -> tuple[list[list[Chunk]], bool]:
        """What each lane runs next, and whether the lanes were idle for want of KV."""
        starved = False
        while True:
            self._news = anyio.Event()
            start_s = self._earliest_start_s()
            batch = [self._pack(requests, start_s) for requests in self._lanes.values()]
            if any(batch) or self._collective.called:
                return batch, starved
            starved = starved or any(self._lanes.values())
            await self._news.wait()

    def _runnable(self, request: int) -> bool:
        turn = self._turns[request]
        if not self._config.traits.layerwise:
            return turn.ready
        return turn.hbm is not None and turn.has_layer(0)

    def _earliest_start_s(self) -> float:
        """When the next forward can begin: at once, or when the first runnable turn's KV came."""
        arrivals = [
            self._turns[request].layer_at_s[0]
            for requests in self._lanes.values()
            for request in requests
            if self._runnable(request)
        ]
        return max(self._due_s, min(arrivals, default=0.0))

    def _pack(self, requests: list[int], start_s: float) -> list[Chunk]:
        """One lane's part: what was there at the start, though we may look a little later."""
        turns = [self._turns[request] for request in requests if self._runnable(request)]
        candidates = [
            Candidate(turn.request, turn.hit_tokens + turn.computed_tokens, turn.pending_tokens)
            for turn in turns
            if turn.layer_at_s[0] <= start_s
        ]
        return pack(candidates, self._config.traits, self._config.gpu)

    async def _forward(self, batch: list[list[Chunk]], starved: bool, tasks: TaskGroup) -> None:
        """Layer by layer: wait for its KV, compute, pass the lockstep, send it on."""
        jobs = self._jobs(batch)
        layers = self._config.kv.layers
        layer_s = await self._collective.join(self._slowest_lane_s(batch) / layers)
        begin_s = self._due_s = max(self._due_s, self._latest_first_layer_s(jobs))
        finished = [self._turns[job.request] for job in jobs if job.final]
        contents: dict[int, bytes] = {}
        for layer in range(layers):
            arrived_s = await self._layer_here(jobs, layer)
            self._due_s = max(self._due_s, arrived_s) + layer_s
            contents = await self._compute.prefill(jobs, layer, self._due_s)
            await self._collective.barrier(layer)
            for job in jobs:
                if job.final:
                    tasks.start_soon(self._send_layer, job.request, layer, contents)
        await self._settle(finished)
        self._write_down(begin_s, layer_s * layers, batch, starved)

    async def _forward_whole(
        self, batch: list[list[Chunk]], starved: bool, tasks: TaskGroup
    ) -> None:
        """Without layerwise prefill: all of H2D, then all of the compute, then all of the sends."""
        layers = self._config.kv.layers
        begin_s = max(self._due_s, self._clock.now_s())
        for chunk in (chunk for lane in batch for chunk in lane):
            await self._load(self._turns[chunk.request])
        jobs = self._jobs(batch)
        layer_s = await self._collective.join(self._slowest_lane_s(batch) / layers)
        arrived_s = max([await self._layer_here(jobs, layer) for layer in range(layers)])
        self._due_s = max(self._due_s, arrived_s)
        contents: dict[int, bytes] = {}
        for layer in range(layers):
            self._due_s += layer_s
            contents = await self._compute.prefill(jobs, layer, self._due_s)
            await self._collective.barrier(layer)
        self._write_down(begin_s, layer_s * layers, batch, starved)
        await self._settle([self._turns[job.request] for job in jobs if job.final])
        async with anyio.create_task_group() as sends:
            for job in jobs:
                for layer in range(layers):
                    sends.start_soon(self._send_layer, job.request, layer, contents)
        self._due_s = max(self._due_s, self._clock.now_s())

    def _jobs(self, batch: list[list[Chunk]]) -> list[PrefillJob]:
        jobs = []
        for chunk in (chunk for lane in batch for chunk in lane):
            turn = self._turns[chunk.request]
            assert turn.hbm is not None and turn.assign is not None
            first = turn.hit_tokens + turn.computed_tokens
            turn.computed_tokens += chunk.tokens
            jobs.append(
                PrefillJob(
                    turn.request,
                    turn.hbm,
                    turn.assign.turn.content,
                    first,
                    first + chunk.tokens,
                    final=first + chunk.tokens == turn.prompt_tokens,
                )
            )
        return jobs

    async def _layer_here(self, jobs: Iterable[PrefillJob], layer: int) -> float:
        """Wait for one layer's hit KV of the whole batch; returns when the last of it came."""
        turns = [self._turns[job.request] for job in jobs]
        with self._clock.deadline(self._config.deadline_s, f"layer {layer} of a prefill's KV"):
            while not all(turn.has_layer(layer) for turn in turns):
                self._news = anyio.Event()
                await self._news.wait()
        return max((turn.layer_at_s[layer] for turn in turns), default=0.0)

    def _latest_first_layer_s(self, jobs: Iterable[PrefillJob]) -> float:
        return max((self._turns[job.request].layer_at_s[0] for job in jobs), default=0.0)

    async def _send_layer(self, request: int, layer: int, contents: dict[int, bytes]) -> None:
        """One layer's KV to the DE buffer; free the HBM once every layer is acknowledged."""
        turn = self._turns[request]
        assert turn.granted is not None and turn.hbm is not None
        target = self._buffer(turn, Side.DE)
        ranges = turn.missing_ranges()
        last_layer = layer == self._config.kv.layers - 1
        for index, (first, last) in enumerate(ranges):
            final = last_layer and index == len(ranges) - 1
            content = contents[request] if final else b""
            write = Write(
                turn.hbm.tokens(first, last).layer(layer),
                turn.granted.tokens(first, last).layer(layer),
                LayerDone(request, layer, last - first, final, content),
                request,
            )
            await self._transport.write(target, write, deadline_s=self._config.deadline_s)
        turn.sends_left -= 1
        if turn.sends_left == 0:
            self._hbm.give(turn.hbm.slot)
            del self._turns[request]

    def _buffer(self, turn: PrefillTurn, side: Side) -> str:
        assert turn.assign is not None
        decision = turn.assign.decision
        engine = decision.pe if side is Side.PE else decision.de
        return self._config.buffers[engine.split("/")[0]]

    async def _settle(self, finished: list[PrefillTurn]) -> None:
        """The forward's end: finished turns leave their lane, clients hear of first tokens."""
        at_s = max(self._due_s, self._clock.now_s())
        for turn in finished:
            assert turn.assign is not None
            self._lanes[turn.assign.decision.pe].remove(turn.request)
        for turn in finished:
            await self._transport.send(self._config.client, FirstToken(turn.request, at_s))

    def _slowest_lane_s(self, batch: list[list[Chunk]]) -> float:
        return max(chunk_s for chunk_s in [0.0, *(self._lane_s(lane) for lane in batch)])

    def _lane_s(self, lane: list[Chunk]) -> float:
        return sum(chunk.gpu_s for chunk in lane)

    def _write_down(
        self, begin_s: float, compute_s: float, batch: list[list[Chunk]], starved: bool
    ) -> None:
        lanes_s = tuple(self._lane_s(lane) for lane in batch)
        chunks = sum(len(lane) for lane in batch)
        self.forwards.append(Forward(begin_s, self._due_s, compute_s, lanes_s, chunks, starved))

    def _forget(self, request: int) -> None:
        """A turn failed before its prefill: nothing of it is in a forward yet."""
        self._failed.add(request)
        turn = self._turns.pop(request, None)
        if turn is not None and turn.assign is not None:
            self._lanes[turn.assign.decision.pe].remove(request)

    def _report(self) -> Report:
        engines = []
        for lane, requests in self._lanes.items():
            tokens = sum(self._turns[request].prompt_tokens for request in requests)
            engines.append(
                EngineReport(lane, len(requests), tokens, self._hbm.free_tokens, self._seen)
            )
        return Report(self._config.group.name, tuple(engines), ())

"""A host of prefill GPUs (PEs): one lane a GPU, all lanes in lockstep.

The loop: receive, schedule, transfer and compute, account. Messages fill in `PrefillTurn`s; the
forward loop packs what is ready and runs it layer by layer while later layers still arrive.
"""

from collections.abc import Iterable
from itertools import takewhile

import anyio
from anyio.abc import TaskGroup

from engines.collective import Collective
from engines.config import PrefillConfig
from engines.control import Reporter
from engines.errors import EngineError
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
    Message,
    Pull,
    Report,
    TurnFailed,
)
from engines.prefill_turn import Batch, Forward, PrefillTurn
from engines.seams.clock import Clock
from engines.seams.compute import Compute, PrefillJob
from engines.seams.transport import Transport, Write
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
        self.account = {"no_hole": 0}

    async def run(self) -> None:
        """Receive until drained, with the forward loop beside."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._reporter.run)
            tasks.start_soon(self._forward_loop, tasks)
            while True:
                delivery = await self._transport.receive()
                if isinstance(delivery.message, Drain):
                    tasks.cancel_scope.cancel()
                    self.account["no_hole"] = self._hbm.no_hole
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
        turn = self._turns.get(request)
        if turn is None:
            turn = self._turns[request] = PrefillTurn(request, self._config.kv.layers)
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
        """Take HBM as it comes free, in order of asking."""
        turn.take(await self._hbm.take(turn.prompt_tokens))
        await self._pull(turn)

    def _seated(self, chunk: Chunk) -> bool:
        """Whether a chunk's turn has HBM; a batch that waited for it might wait for itself."""
        turn = self._turns[chunk.request]
        if turn.hbm is None and (slot := self._hbm.take_now(turn.prompt_tokens)) is not None:
            turn.take(slot)
        return turn.hbm is not None

    async def _pull(self, turn: PrefillTurn) -> None:
        """Ask the buffers for the hit KV, layer by layer."""
        assert turn.hbm is not None
        if not turn.hit_tokens:  # nothing will arrive: it can run from now on
            turn.layer_at_s = [self._clock.now_s()] * self._config.kv.layers
        self._news.set()
        for part in turn.loaded:
            pull = Pull(turn.request, part.slot, turn.hbm, part.first, part.last)
            await self._transport.send(self._buffer(turn, part.side), pull)

    async def _forward_loop(self, tasks: TaskGroup) -> None:
        while True:
            batch = await self._next_batch()
            if self._config.traits.layerwise:
                await self._forward(batch, tasks)
            else:
                await self._forward_whole(batch)

    async def _next_batch(self) -> Batch:
        """What each lane runs next; waits until one has something, or a peer calls."""
        starved = False
        while True:
            self._news = anyio.Event()
            start_s = self._earliest_start_s()
            lanes = tuple(self._pack(requests, start_s) for requests in self._lanes.values())
            if any(lanes) or self._collective.called:
                hungry = tuple(
                    not all(self._runnable(request) for request in requests)
                    for requests in self._lanes.values()
                )
                return Batch(lanes, hungry, starved)
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
        chunks = pack(candidates, self._config.traits, self._config.gpu)
        return chunks if self._config.traits.layerwise else list(takewhile(self._seated, chunks))

    async def _forward(self, batch: Batch, tasks: TaskGroup) -> None:
        """Layer by layer: wait for its KV, compute, pass the lockstep, send it on."""
        jobs = self._jobs(batch)
        finished = [self._turns[job.request] for job in jobs if job.final]
        layer_s = await self._join(batch, self._latest_first_layer_s(jobs))
        begin_s = self._due_s
        for layer in range(self._config.kv.layers):
            arrived_s = await self._layer_here(jobs, layer)
            contents = await self._layer(jobs, layer, max(self._due_s, arrived_s) + layer_s)
            for turn in finished:
                tasks.start_soon(self._send_layer, turn.request, layer, contents)
        await self._settle(finished)
        compute_s = layer_s * self._config.kv.layers
        self.forwards.append(Forward.of(batch, begin_s, self._due_s, compute_s))

    async def _forward_whole(self, batch: Batch) -> None:
        """Without layerwise prefill: all of H2D, then all of the compute, then all of the sends."""
        layers = range(self._config.kv.layers)
        begin_s = max(self._due_s, self._clock.now_s())
        for turn in (self._turns[chunk.request] for chunk in batch.chunks):
            if not turn.loading:  # of a turn that was cut, it is here since its first chunk
                turn.loading = True
                await self._pull(turn)
        jobs = self._jobs(batch)
        finished = [self._turns[job.request] for job in jobs if job.final]
        arrived_s = max([await self._layer_here(jobs, layer) for layer in layers])
        layer_s = await self._join(batch, arrived_s)
        for layer in layers:
            contents = await self._layer(jobs, layer, self._due_s + layer_s)
        compute_s = layer_s * len(layers)
        self.forwards.append(Forward.of(batch, begin_s, self._due_s, compute_s))
        await self._settle(finished)
        async with anyio.create_task_group() as sends:
            for turn in finished:
                for layer in layers:
                    sends.start_soon(self._send_layer, turn.request, layer, contents)
        self._due_s = max(self._due_s, self._clock.now_s())

    async def _join(self, batch: Batch, ready_s: float) -> float:
        """Begin a step together with the group; returns the time of each layer."""
        layer_s = max(batch.lanes_s) / self._config.kv.layers
        layer_s, self._due_s = await self._collective.join(layer_s, max(self._due_s, ready_s))
        return layer_s

    async def _layer(self, jobs: list[PrefillJob], layer: int, due_s: float) -> dict[int, bytes]:
        """Compute one layer by `due_s`, then meet the group's slowest."""
        contents = await self._compute.prefill(jobs, layer, due_s)
        self._due_s = await self._collective.barrier(layer, due_s)
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
        # A prompt of hits alone leaves nothing to send but the doorbell.
        ranges = turn.missing_ranges() or [(turn.prompt_tokens, turn.prompt_tokens)]
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

    def _forget(self, request: int) -> None:
        """A turn failed before its prefill: nothing of it is in a forward yet."""
        self._failed.add(request)
        turn = self._turns.pop(request, None)
        if turn is not None and turn.hbm is not None:
            self._hbm.give(turn.hbm.slot)
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

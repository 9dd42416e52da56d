"""The clients: agents in a closed loop, each turn's prompt holding what was really generated."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from engines.errors import EngineError
from engines.kv import Extent, blocks
from engines.messages import (
    Drain,
    FirstToken,
    NewTerm,
    Resubmitted,
    Submit,
    TurnDone,
    TurnFailed,
)
from engines.seams.clock import Clock
from engines.seams.transport import Delivery, Transport
from engines.tasks import Crew
from engines.waits import Awaited
from scheduler.types import Request


class TurnPlan(msgspec.Struct, frozen=True):
    """One turn: keep `keep_tokens` of the context (None: all), append, then generate."""

    append_tokens: int
    generate_tokens: int
    keep_tokens: int | None = None


class AgentPlan(msgspec.Struct, frozen=True):
    """An agent that enters in mid-trajectory, with `opening_tokens` of a shared opening.

    It submits its first turn at `start_s` target seconds. With an opening of 0 tokens nothing of
    its context is in storage.
    """

    agent: int
    opening: int
    opening_tokens: int
    turns: tuple[TurnPlan, ...]
    start_s: float = 0.0


class Author(Protocol):
    """Writes the content of prompts; what it is made of is opaque to the agents."""

    def opening(self, opening: int, tokens: int) -> bytes: ...

    def extend(self, content: bytes, prompt_tokens: int, agent: int, turn: int) -> bytes: ...

    def truncate(self, content: bytes, tokens: int) -> bytes: ...


class TurnRecord(msgspec.Struct):
    """A turn as its client saw it, in target seconds; `reason` says why it failed, if it did."""

    request: Request
    chain: int
    submitted_s: float
    first_token_s: float = 0.0
    decode_start_s: float = 0.0
    second_token_s: float = 0.0
    done_s: float = 0.0
    generated: bytes = b""
    fingerprint: str = ""
    reason: str = ""
    own_hit_blocks: int = 0


class AgentsConfig(msgspec.Struct, frozen=True, tag="agents"):
    """The clients' host; chains of openings and agents are numbered apart.

    No turn begins at `window_s` target seconds or later (None: all turns are played).
    """

    host: str
    scheduler: str
    everyone: tuple[str, ...]
    agents: tuple[AgentPlan, ...]
    block_tokens: int
    deadline_s: float
    window_s: float | None = None


OPENING_CHAINS = 1 << 40


class Agents:
    """Plays every agent's plan from its start on, with zero gap between turns, to the last one."""

    def __init__(
        self,
        config: AgentsConfig,
        clock: Clock,
        transport: Transport,
        author: Author,
        progress: Callable[[int, int], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._transport = transport
        self._author = author
        self._progress = progress
        self._waiting: dict[int, Awaited[TurnDone | TurnFailed]] = {}
        self._submitted: dict[int, Submit] = {}  # of those that wait, in order
        self._first_request: dict[int, int] = {}
        number = 1
        for plan in config.agents:
            self._first_request[plan.agent] = number
            number += len(plan.turns)
        self._total = sum(len(plan.turns) for plan in config.agents)
        self._ended = 0
        self.turns: dict[int, TurnRecord] = {}

    async def run(self) -> None:
        """Play all plans, then tell every host to finish."""
        async with Crew() as tasks:
            tasks.start(self._transport.serve(self._hear))
            async with Crew() as playing:
                for plan in self._config.agents:
                    playing.start(self._play(plan))
            tasks.dismiss()
        for host in self._config.everyone:
            self._transport.post(host, Drain())

    def _hear(self, delivery: Delivery) -> None:
        message = delivery.message
        match message:
            case FirstToken():
                self.turns[message.request].first_token_s = message.at_s
            case TurnDone() | TurnFailed():
                waiting = self._waiting.pop(message.request, None)
                if waiting is not None:
                    del self._submitted[message.request]
                    waiting.set(message)
            case NewTerm(term):
                for submit in self._submitted.values():
                    self._transport.post(delivery.sender, submit)
                self._transport.post(delivery.sender, Resubmitted(term))
            case other:
                raise EngineError(f"an agent cannot use {type(other).__name__}")

    async def _play(self, plan: AgentPlan) -> None:
        if plan.start_s > 0:
            await self._clock.sleep_until_s(plan.start_s)
        content = self._author.opening(plan.opening, plan.opening_tokens)
        context_tokens = plan.opening_tokens
        count = blocks(plan.opening_tokens, self._config.block_tokens)
        held = [Extent(OPENING_CHAINS + plan.opening, 0, count)] if count else []
        chain = self._first_request[plan.agent]  # any number that nobody else uses
        for number, turn in enumerate(plan.turns):
            if self._closed():
                self._drop(len(plan.turns) - number)
                return
            kept = context_tokens
            if turn.keep_tokens is not None:
                kept = min(kept, turn.keep_tokens)
            if kept < context_tokens:
                # The context diverges: what follows is another branch of the trie.
                content = self._author.truncate(content, kept)
                held = _first_blocks(held, blocks(kept, self._config.block_tokens))
                chain = self._first_request[plan.agent] + number
            prompt_tokens = kept + turn.append_tokens
            content = self._author.extend(content, prompt_tokens, plan.agent, number)
            record = await self._turn(plan, number, prompt_tokens, content, held, chain)
            if record.reason:
                self._count(len(plan.turns) - number)
                return
            self._count(1)
            content += record.generated
            context_tokens = prompt_tokens + turn.generate_tokens
            held = _up_to(held, chain, blocks(context_tokens, self._config.block_tokens))

    async def _turn(
        self,
        plan: AgentPlan,
        number: int,
        prompt_tokens: int,
        content: bytes,
        held: list[Extent],
        chain: int,
    ) -> TurnRecord:
        request = Request(
            id=self._first_request[plan.agent] + number,
            agent=plan.agent,
            turn=number,
            prompt_tokens=prompt_tokens,
            hit_tokens=sum(extent.count for extent in held) * self._config.block_tokens,
            generate_tokens=plan.turns[number].generate_tokens,
            context=tuple(held),
            chain=chain,
        )
        record = self.turns[request.id] = TurnRecord(request, chain, self._clock.now_s())
        record.own_hit_blocks = sum(e.count for e in held if e.chain < OPENING_CHAINS)
        outcome = self._waiting[request.id] = Awaited(f"the end of turn {request.id}")
        submit = self._submitted[request.id] = Submit(request, content)
        self._transport.post(self._config.scheduler, submit)
        end = await outcome.wait(self._clock, self._config.deadline_s)
        if isinstance(end, TurnFailed):
            record.reason = end.reason
        else:
            record.decode_start_s, record.second_token_s = end.decode_start_s, end.second_token_s
            record.done_s, record.generated = end.last_token_s, end.content
            record.fingerprint = end.kv_fingerprint
        return record

    def _closed(self) -> bool:
        window_s = self._config.window_s
        return window_s is not None and self._clock.now_s() >= window_s

    def _drop(self, turns: int) -> None:
        """Turns that the window's end leaves unplayed were never due."""
        self._total -= turns
        self._progress(self._ended, self._total)

    def _count(self, turns: int) -> None:
        self._ended += turns
        self._progress(self._ended, self._total)


def _up_to(held: list[Extent], chain: int, count: int) -> list[Extent]:
    """The context grown to so many blocks along a chain; of one chain there is one extent."""
    at = sum(extent.count for extent in held)
    if count == at:
        return held
    if held and held[-1].chain == chain:
        first = held[-1].first
        return [*held[:-1], Extent(chain, first, count - first)]
    return [*held, Extent(chain, at, count - at)]


def _first_blocks(held: Sequence[Extent], count: int) -> list[Extent]:
    return [
        msgspec.structs.replace(extent, count=min(extent.count, count - extent.first))
        for extent in held
        if extent.first < count
    ]

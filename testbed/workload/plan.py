"""A workload as a run plays it, and what it amounts to. All in real tokens."""

from collections.abc import Iterator
from statistics import fmean

import msgspec

from engines.agents import AgentPlan
from engines.kv import blocks


class Opening(msgspec.Struct, frozen=True):
    """A beginning of contexts, as long as its longest user's, that storage holds from the start."""

    id: int
    tokens: int


class Load(msgspec.Struct, frozen=True):
    """One turn's work: `hit_tokens` (whole blocks) are read, `computed_tokens` are prefilled.

    `cached_tokens` of the hits came out of DRAM and were not read; before a run nobody knows.
    """

    prompt_tokens: int
    hit_tokens: int
    generate_tokens: int
    cached_tokens: int = 0

    @property
    def computed_tokens(self) -> int:
        """Appended tokens and the tail of the context that is no whole block."""
        return self.prompt_tokens - self.hit_tokens

    @property
    def context_tokens(self) -> int:
        """Tokens that the turn holds in decode HBM at its end."""
        return self.prompt_tokens + self.generate_tokens


class Averages(msgspec.Struct, frozen=True):
    """Means over all turns, in tokens; `hit_rate` is all hit over all prompt tokens."""

    agents: int
    turns: int
    hit_tokens: float
    computed_tokens: float
    prompt_tokens: float
    generate_tokens: float
    hit_rate: float
    max_context_tokens: int


class Workload(msgspec.Struct, frozen=True):
    """Openings, agents, and in words the rule by which they were made."""

    openings: tuple[Opening, ...]
    agents: tuple[AgentPlan, ...]
    rule: str


def offered_turns_per_s(workload: Workload) -> float:
    """Turns that agents bring a second until the last one arrives; inf if all start at once."""
    last_s = max(agent.start_s for agent in workload.agents)
    turns = sum(len(agent.turns) for agent in workload.agents)
    return turns / last_s if last_s > 0 else float("inf")


def loads(workload: Workload, block_tokens: int) -> Iterator[Load]:
    """Every turn of every agent, in the arithmetic of `engines/agents.py`."""
    known: dict[tuple[int, int], list[Load]] = {}
    for agent in workload.agents:
        same = agent.opening_tokens, id(agent.turns)  # thousands of agents may share their turns
        if same not in known:
            known[same] = list(_agent_loads(agent, block_tokens))
        yield from known[same]


def _agent_loads(agent: AgentPlan, block_tokens: int) -> Iterator[Load]:
    context = agent.opening_tokens
    for turn in agent.turns:
        kept = context if turn.keep_tokens is None else min(context, turn.keep_tokens)
        prompt = kept + turn.append_tokens
        yield Load(prompt, blocks(kept, block_tokens) * block_tokens, turn.generate_tokens)
        context = prompt + turn.generate_tokens


def averages(workload: Workload, block_tokens: int) -> Averages:
    """What the workload really amounts to, after rounding hits to whole blocks."""
    turns = list(loads(workload, block_tokens))
    hit = fmean(load.hit_tokens for load in turns)
    prompt = fmean(load.prompt_tokens for load in turns)
    return Averages(
        agents=len(workload.agents),
        turns=len(turns),
        hit_tokens=hit,
        computed_tokens=prompt - hit,
        prompt_tokens=prompt,
        generate_tokens=fmean(load.generate_tokens for load in turns),
        hit_rate=hit / prompt,
        max_context_tokens=max(load.context_tokens for load in turns),
    )

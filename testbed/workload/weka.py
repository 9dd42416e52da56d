"""The weka kind: real coding sessions, replayed from somewhere in their middle.

A trace is a file of one JSON object a line: `{"id": name, "turns": [[in, out, keep], ...]}`.
`in` is the prompt, `out` what was generated; `keep` is null if the turn only appended, else
the tokens that its prompt has in common with the prompt before. Source and selection:
`traces/weka-coding/README.md`.
"""

from collections import Counter
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
from msgspec import Meta

from engines.agents import AgentPlan, TurnPlan
from testbed.errors import InputError
from testbed.spec_workload import WekaWorkload
from testbed.workload.plan import Opening, Workload

SESSIONS = Path(__file__).parent / "traces" / "weka-coding" / "sessions.jsonl"

Count = Annotated[int, Meta(ge=0, le=100_000_000)]
Positive = Annotated[int, Meta(ge=1, le=100_000_000)]


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One recorded conversation: prompt tokens, generated tokens, and what a prompt kept."""

    id: str
    turns: Annotated[tuple[tuple[Positive, Positive, Count | None], ...], Meta(min_length=1)]


def read_sessions(path: Path) -> list[Session]:
    """All sessions of a trace file; raises InputError naming file and line."""
    decoder = msgspec.json.Decoder(Session)
    sessions = []
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    sessions.append(decoder.decode(line))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise InputError(
                        f"{path}:{number}: not a session: {error}; the file may be cut short, "
                        'each line is {"id": ..., "turns": [[in, out, keep], ...]}'
                    ) from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: the trace cannot be read: {why}; check workload.trace"
        ) from error
    if not sessions:
        raise InputError(f"{path}: the trace is empty; each line is one session")
    return sessions


def build_weka(spec: WekaWorkload, seed: int) -> Workload:
    """Agents that each replay `turns` turns of a session, from a drawn turn on, without pauses."""
    path = Path(spec.trace) if spec.trace else SESSIONS
    sessions = read_sessions(path)
    playable = [session for session in sessions if _starts(session, spec)]
    if len(playable) < spec.sessions:
        raise InputError(
            f"{path}: {len(playable)} sessions have {spec.turns} turns after their first that "
            f"generate at most {spec.longest_generation} tokens, but workload.sessions is "
            f"{spec.sessions}; choose fewer sessions, fewer turns, or longer generations"
        )
    random = Random(f"weka-{seed}")
    chosen = random.sample(playable, spec.sessions)
    agents = tuple(
        _agent(number, number % spec.sessions, chosen[number % spec.sessions], spec, random)
        for number in range(spec.agents)
    )
    lengths: dict[int, int] = {}
    for agent in agents:
        lengths[agent.opening] = max(lengths.get(agent.opening, 0), agent.opening_tokens)
    openings = tuple(Opening(opening, tokens) for opening, tokens in lengths.items())
    return Workload(openings, agents, _rule(agents, chosen, spec))


def _starts(session: Session, spec: WekaWorkload) -> list[int]:
    """Turns from which so many in a row can be replayed."""
    return [
        start
        for start in range(1, len(session.turns) - spec.turns + 1)
        if all(
            generated <= spec.longest_generation
            for _, generated, _ in session.turns[start : start + spec.turns]
        )
    ]


def _agent(
    number: int, opening: int, session: Session, spec: WekaWorkload, random: Random
) -> AgentPlan:
    start = random.choice(_starts(session, spec))
    before_in, before_out, _ = session.turns[start - 1]
    return AgentPlan(
        agent=number,
        opening=opening,
        opening_tokens=before_in + before_out,
        turns=replayed(session, start, start + spec.turns),
    )


def replayed(session: Session, start: int, end: int) -> tuple[TurnPlan, ...]:
    """Turns `start` to before `end` of a session, none of them the first, in an agent's words."""
    before_in, before_out, _ = session.turns[start - 1]
    context = before_in + before_out
    plans = []
    for prompt, generated, keep in session.turns[start:end]:
        plans.append(_turn(context, prompt, generated, keep))
        context = prompt + generated
    return tuple(plans)


def _turn(context: int, prompt: int, generated: int, keep: int | None) -> TurnPlan:
    """A prompt ends with at least one new token, and shares at least its first with the last."""
    kept = max(1, min(context if keep is None else keep, context, prompt - 1))
    return TurnPlan(
        append_tokens=max(1, prompt - kept),
        generate_tokens=generated,
        keep_tokens=None if kept == context else kept,
    )


def _rule(agents: tuple[AgentPlan, ...], chosen: list[Session], spec: WekaWorkload) -> str:
    sharing = Counter(agent.opening for agent in agents)
    diverging = sum(turn.keep_tokens is not None for agent in agents for turn in agent.turns)
    share = diverging / (len(agents) * spec.turns)
    return (
        f"{len(agents)} agents in a closed loop without pauses, each replaying {spec.turns} turns "
        f"of one of {len(chosen)} recorded sessions from a drawn turn on, none of which "
        f"generates more than {spec.longest_generation} tokens; what lies before it is in storage "
        f"as its opening; a session's opening is shared by up to "
        f"{max(sharing.values())} agents, on average {len(agents) / len(sharing):.1f}; "
        f"{share:.1%} of the turns drop part of the context before them"
    )

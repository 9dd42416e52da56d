"""The replay kind: every agent replays a trajectory, or a shorter run of rounds of one.

After DualPath section 7: a round appends and generates, the next prompt holds everything so far,
rounds follow without a gap, and hits lie inside a trajectory only. An agent beyond the number of
trajectories plays one again, behind a round of random tokens that generates one token. The paper
does not give that round's length.
"""

from pathlib import Path
from random import Random

import msgspec

from engines.agents import AgentPlan, TurnPlan
from testbed.errors import InputError
from testbed.spec_workload import ReplayWorkload
from testbed.workload.plan import Opening, Workload
from testbed.workload.synthetic import SETS, synthesize
from testbed.workload.weka import SESSIONS, Session, read_sessions, replayed

DEFAULT_SET = "64k"
DEFAULT_TRAJECTORIES = 500  # as many as each of the paper's sets has (Table 2)

Trajectory = tuple[TurnPlan, ...]


def build_replay(spec: ReplayWorkload, seed: int) -> Workload:
    """Agents whose plans depend on seed and number alone, not on how many agents there are."""
    start = _start(spec)
    trajectories = _trajectories(spec, seed)
    longest = max(len(trajectory) for trajectory in trajectories)
    if spec.turns is not None and spec.turns > longest:
        raise InputError(
            f"workload: workload.turns is {spec.turns}, but the longest of {len(trajectories)} "
            f"trajectories has {longest} rounds; choose at most that"
        )
    again = [_again(trajectory, spec.prefix_tokens) for trajectory in trajectories]
    agents = []
    for number in range(spec.agents):
        random = Random(f"replay-{seed}-{number}")
        if number < len(trajectories):
            agents.append(_agent(number, trajectories[number], 0, spec.turns, start, random))
        else:
            agents.append(_agent(number, random.choice(again), 1, spec.turns, start, random))
    # An opening is one agent's alone, so that no hit crosses trajectories.
    openings = tuple(
        Opening(agent.opening, agent.opening_tokens) for agent in agents if agent.opening_tokens
    )
    return Workload(openings, tuple(agents), _rule(spec, start, agents, trajectories))


def _start(spec: ReplayWorkload) -> str:
    if spec.set is not None and spec.trace is not None:
        raise InputError(
            "workload: both workload.set and workload.trace say what is replayed; remove one"
        )
    if spec.start == "drawn" and spec.turns is None:
        raise InputError(
            "workload: workload.start is drawn, but workload.turns does not say for how many "
            "rounds; give it turns, or start: first"
        )
    return spec.start or ("first" if spec.turns is None else "drawn")


def _trajectories(spec: ReplayWorkload, seed: int) -> list[Trajectory]:
    """As many as asked for, in an order that says nothing of their sizes."""
    name = spec.set or DEFAULT_SET
    if spec.trace is None and name in SETS:
        return synthesize(SETS[name], spec.trajectories or DEFAULT_TRAJECTORIES, seed)
    path = SESSIONS if spec.trace is None else Path(spec.trace)
    sessions = read_sessions(path)
    count = spec.trajectories or len(sessions)
    if count > len(sessions):
        raise InputError(
            f"{path}: holds {len(sessions)} sessions, but workload.trajectories is {count}; "
            "choose at most so many"
        )
    chosen = Random(f"trajectories-{seed}").sample(sessions, count)
    return [_recorded(session) for session in chosen]


def _recorded(session: Session) -> Trajectory:
    """A session from its first prompt on, of which nothing is known before."""
    prompt, generated, _ = session.turns[0]
    return (TurnPlan(prompt, generated), *replayed(session, 1, len(session.turns)))


def _again(trajectory: Trajectory, prefix_tokens: int) -> Trajectory:
    """Behind a round of random tokens; what later rounds keep of the context begins with it."""
    before = TurnPlan(prefix_tokens, 1)
    shift = before.append_tokens + before.generate_tokens
    shifted = (
        turn
        if turn.keep_tokens is None
        else msgspec.structs.replace(turn, keep_tokens=turn.keep_tokens + shift)
        for turn in trajectory
    )
    return (before, *shifted)


def _agent(
    number: int,
    trajectory: Trajectory,
    added: int,
    turns: int | None,
    start: str,
    random: Random,
) -> AgentPlan:
    """The whole trajectory, or a contiguous run of it; `added` rounds before it are on top."""
    if turns is None or start == "first":
        end = None if turns is None else added + turns
        return AgentPlan(number, number, 0, trajectory[:end])
    rounds = len(trajectory) - added
    first = added + random.randrange(max(0, rounds - turns) + 1)
    return AgentPlan(number, number, _context(trajectory[:first]), trajectory[first:][:turns])


def _context(rounds: Trajectory) -> int:
    """Tokens of the context after some rounds."""
    context = 0
    for turn in rounds:
        kept = context if turn.keep_tokens is None else min(context, turn.keep_tokens)
        context = kept + turn.append_tokens + turn.generate_tokens
    return context


def _rule(
    spec: ReplayWorkload, start: str, agents: list[AgentPlan], trajectories: list[Trajectory]
) -> str:
    again = max(0, len(agents) - len(trajectories))
    return (
        f"{len(agents)} agents without pauses, {_run_words(spec.turns, start, trajectories)} one "
        f"of {len(trajectories)} {_source_words(spec, trajectories)}; "
        f"{_again_words(again, spec, start)}hits lie inside a trajectory only"
    )


def _run_words(turns: int | None, start: str, trajectories: list[Trajectory]) -> str:
    if turns is None:
        return "each replaying all rounds of"
    shorter = sum(len(trajectory) < turns for trajectory in trajectories)
    whole = f" ({shorter} have fewer and are played whole)" if shorter else ""
    rounds = "round" if turns == 1 else "rounds"
    if start == "first":
        return f"each replaying the first {turns} {rounds}{whole} of"
    return (
        f"each replaying {turns} {rounds} in a row{whole} from a drawn place on, with all before "
        "it in storage, of"
    )


def _source_words(spec: ReplayWorkload, trajectories: list[Trajectory]) -> str:
    name = spec.set or DEFAULT_SET
    if spec.trace is None and name in SETS:
        return (
            f"synthetic trajectories with the averages of the paper's {name.upper()} set, at most "
            f"{SETS[name].longest:,} tokens long"
        )
    rounds = [turn for trajectory in trajectories for turn in trajectory]
    diverging = sum(turn.keep_tokens is not None for turn in rounds) / len(rounds)
    return (
        f"recorded sessions of {Path(spec.trace).name if spec.trace else name}, of whose rounds "
        f"{diverging:.1%} drop part of the context before them"
    )


def _again_words(again: int, spec: ReplayWorkload, start: str) -> str:
    if not again:
        return ""
    where = "is played before the others" if start == "first" else "is in storage as well"
    return (
        f"{again} agents have one drawn again, behind a round of {spec.prefix_tokens} random "
        f"tokens of their own that generates 1 and {where}; "
    )

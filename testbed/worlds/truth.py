"""Compares what a run generated with the reference, agent by agent."""

from pathlib import Path

import msgspec

from engines.agents import AgentPlan, AgentsConfig, TurnRecord
from engines.real.decoder import checked_decoder
from engines.real.reference import Reference, ReferenceTurn
from engines.real.tokens import Author
from testbed.worlds.account import HostAccount, TurnTruth
from testbed.worlds.plan import LabPlan, TruthStart


def check(start: TruthStart) -> None:
    """Check one share of the agents and write `truth/<share>.msgpack`."""
    folder = Path(start.folder)
    plan = msgspec.msgpack.decode((folder / "plan.msgpack").read_bytes(), type=LabPlan)
    world = plan.world
    author = Author(world.author_seed, world.shape.vocabulary, world.layout)
    decoder = checked_decoder(world.shape, world.padded_rows, world.layout)
    reference = Reference(decoder, world.layout, author)
    turns = _turns(folder)
    found = [
        truth
        for agent in _share(_agents(plan), start)
        if agent.agent in turns  # else it played none, and its opening need not be computed
        for truth in _check_agent(reference, agent, turns[agent.agent])
    ]
    (folder / "truth" / f"{start.share}.msgpack").write_bytes(msgspec.msgpack.encode(found))


def _share(agents: list[AgentPlan], start: TruthStart) -> list[AgentPlan]:
    """A contiguous part, so that few openings are computed twice."""
    first, last = (len(agents) * n // start.shares for n in (start.share, start.share + 1))
    return agents[first:last]


def _agents(plan: LabPlan) -> list[AgentPlan]:
    """Every agent, those of one opening together."""
    (config,) = (host.role for host in plan.hosts if isinstance(host.role, AgentsConfig))
    return sorted(config.agents, key=lambda agent: (agent.opening, agent.agent))


def _turns(folder: Path) -> dict[int, list[TurnRecord]]:
    account = msgspec.msgpack.decode(
        (folder / "accounts" / "agents.msgpack").read_bytes(), type=HostAccount
    )
    found: dict[int, list[TurnRecord]] = {}
    for record in sorted(account.turns, key=lambda record: record.request.turn):
        if not record.reason:
            found.setdefault(record.request.agent, []).append(record)
    return found


def _check_agent(
    reference: Reference, agent: AgentPlan, records: list[TurnRecord]
) -> list[TurnTruth]:
    turns = [
        ReferenceTurn(
            turn=record.request.turn,
            keep_tokens=agent.turns[record.request.turn].keep_tokens,
            prompt_tokens=record.request.prompt_tokens,
            generate_tokens=record.request.generate_tokens,
            generated=record.generated,
            kv_fingerprint=record.fingerprint,
        )
        for record in records
    ]
    verdicts = reference.check_agent(agent.agent, agent.opening, agent.opening_tokens, turns)
    return [
        TurnTruth(record.request.id, verdict.tokens_checked, verdict.tokens_equal, verdict.kv_equal)
        for record, verdict in zip(records, verdicts, strict=True)
    ]

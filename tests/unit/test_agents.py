"""Clients in a closed loop: what a prompt holds, what it hits, and when it is sent."""

from collections.abc import Awaitable, Callable

import anyio
import pytest
from fakes import BLOCK, FakeAuthor, FakeClock, FakeTransport, Network, play, text

from engines.agents import OPENING_CHAINS, AgentPlan, Agents, AgentsConfig, TurnPlan, TurnRecord
from engines.errors import DeadlineExceeded, EngineError
from engines.kv import Extent
from engines.messages import Drain, FirstToken, Message, Submit, TurnDone, TurnFailed
from testbed.workload.plan import Workload, loads

Answer = Callable[[Submit], Awaitable[Message]]


def generated(turn: Submit) -> bytes:
    request = turn.request
    rows = request.context_tokens // BLOCK - request.prompt_tokens // BLOCK
    return bytes([200 + request.id]) * rows


async def done(turn: Submit) -> Message:
    """A cluster that takes a second for each turn."""
    begin_s = anyio.current_time()
    await anyio.sleep(1)
    return TurnDone(turn.request.id, generated(turn), begin_s, begin_s + 0.1, begin_s + 0.9, "kv")


def run(
    *plans: AgentPlan,
    answer: Answer = done,
    deadline_s: float = 100.0,
    window_s: float | None = None,
) -> tuple[Agents, list[Submit], Network, list[tuple[int, int]]]:
    network, submits, progress = Network(), [], []
    found: list[Agents] = []

    async def serve(turn: Submit) -> None:
        transport = FakeTransport("sched", network)
        transport.post("agents", FirstToken(turn.request.id, anyio.current_time() + 0.05))
        transport.post("agents", await answer(turn))

    async def whole() -> None:
        config = AgentsConfig("agents", "sched", ("a", "b"), plans, BLOCK, deadline_s, window_s)
        transport = FakeTransport("agents", network)
        agents = Agents(
            config, FakeClock(), transport, FakeAuthor(), lambda *at: progress.append(at)
        )
        found.append(agents)
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                while True:
                    message = (await network.next("sched")).message
                    assert isinstance(message, Submit)
                    submits.append(message)
                    tasks.start_soon(serve, message)

            tasks.start_soon(listen)
            await agents.run()
            tasks.cancel_scope.cancel()

    play(whole)
    return found[0], submits, network, progress


def test_each_prompt_continues_what_was_generated_and_hits_all_its_whole_blocks() -> None:
    plan = AgentPlan(3, 2, 18, (TurnPlan(6, 9), TurnPlan(5, 4), TurnPlan(1, 1)))
    agents, submits, _, _ = run(plan)
    first, second, third = submits
    # 18 tokens of opening: four whole blocks, two tokens over.
    assert first.request.prompt_tokens == 24 and first.request.hit_tokens == 16
    assert first.request.context == (Extent(OPENING_CHAINS + 2, 0, 4),)
    assert first.content[:4] == text(2, 18) and len(first.content) == 6
    # 33 tokens after the first turn: blocks 4 to 8 are the agent's own.
    assert second.request.prompt_tokens == 38 and second.request.hit_tokens == 32
    assert second.request.context == (
        Extent(OPENING_CHAINS + 2, 0, 4),
        Extent(first.request.chain, 4, 4),
    )
    assert second.content[:8] == first.content + generated(first)
    assert third.request.prompt_tokens == 43 and third.request.hit_tokens == 40
    assert third.request.context[1:] == (Extent(first.request.chain, 4, 6),)
    assert third.content[:10] == second.content + generated(second)
    assert [agents.turns[n].own_hit_blocks for n in (1, 2, 3)] == [0, 4, 6]


def test_divergence_keeps_a_part_and_goes_on_along_a_chain_of_its_own() -> None:
    turns = (TurnPlan(6, 10), TurnPlan(8, 4, keep_tokens=27), TurnPlan(4, 4))
    _, submits, _, _ = run(AgentPlan(0, 2, 18, turns))
    first, second, third = submits
    # 27 tokens are kept: six whole blocks, of which two are the agent's own.
    assert second.request.prompt_tokens == 35 and second.request.hit_tokens == 24
    assert second.request.context == (
        Extent(OPENING_CHAINS + 2, 0, 4),
        Extent(first.request.chain, 4, 2),
    )
    assert second.content[:6] == (first.content + generated(first))[:6]
    assert second.content[6:] == text(101, 8)  # not what was there before
    assert second.request.chain != first.request.chain
    # What follows hits both parts of the branch: blocks 6 to 8 lie on the new chain.
    assert third.request.context == (*second.request.context, Extent(second.request.chain, 6, 3))
    assert third.request.chain == second.request.chain
    assert third.request.hit_tokens == 36


@pytest.mark.parametrize(("keep", "hit", "context"), [
    (3, 0, ()), (10, 8, (Extent(OPENING_CHAINS, 0, 2),)),
])  # fmt: skip
def test_divergence_inside_the_opening(keep: int, hit: int, context: tuple[Extent, ...]) -> None:
    plan = AgentPlan(0, 0, 18, (TurnPlan(6, 10), TurnPlan(8, 4, keep_tokens=keep)))
    _, (_, second), _, _ = run(plan)
    assert second.request.hit_tokens == hit and second.request.context == context
    assert second.request.prompt_tokens == keep + 8


def test_chains_and_requests_of_agents_are_numbered_apart() -> None:
    turns = (TurnPlan(6, 10), TurnPlan(8, 4, keep_tokens=9), TurnPlan(8, 4, keep_tokens=9))
    _, submits, _, _ = run(*(AgentPlan(agent, 0, 18, turns) for agent in range(4)))
    assert sorted(turn.request.id for turn in submits) == list(range(1, 13))
    agents = {turn.request.chain: turn.request.agent for turn in submits}
    assert len(agents) == 12  # three branches an agent, none shared
    assert max(agents) < OPENING_CHAINS


def test_hits_are_those_that_the_workload_was_sized_by() -> None:
    turns = (TurnPlan(6, 10), TurnPlan(8, 4, keep_tokens=27), TurnPlan(4, 7), TurnPlan(9, 1))
    plan = AgentPlan(0, 0, 18, turns)
    _, submits, _, _ = run(plan)
    sized = list(loads(Workload((), (plan,), ""), BLOCK))
    assert [(t.request.prompt_tokens, t.request.hit_tokens) for t in submits] == [
        (load.prompt_tokens, load.hit_tokens) for load in sized
    ]


def test_turns_of_an_agent_follow_without_a_gap_and_agents_run_side_by_side() -> None:
    plans = [AgentPlan(n, 0, 16, (TurnPlan(4, 4), TurnPlan(4, 4))) for n in (0, 1)]
    agents, _, network, progress = run(*plans)
    begin = {number: turn.submitted_s for number, turn in agents.turns.items()}
    assert begin == {1: 0.0, 2: pytest.approx(1.0), 3: 0.0, 4: pytest.approx(1.0)}
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    drained = [sent.peer for sent in network.messages(Drain)]
    assert drained == ["a", "b"]
    assert isinstance(network.log[-1].message, Drain)


def test_an_agent_waits_for_its_start_and_no_deadline_counts_that() -> None:
    turns = (TurnPlan(4, 4), TurnPlan(4, 4))
    plans = [AgentPlan(0, 0, 16, turns, start_s=250.0), AgentPlan(1, 1, 16, turns)]
    agents, submits, _, _ = run(*plans, deadline_s=5)
    assert [turn.request.id for turn in submits] == [3, 4, 1, 2]
    begin = [agents.turns[number].submitted_s for number in (1, 2, 3, 4)]
    assert begin == pytest.approx([250.0, 251.0, 0.0, 1.0])


def test_an_agent_without_an_opening_hits_nothing_at_first() -> None:
    plan = AgentPlan(0, 7, 0, (TurnPlan(6, 3), TurnPlan(5, 4)))
    _, (first, second), _, _ = run(plan)
    assert first.request.prompt_tokens == 6 and first.request.hit_tokens == 0
    assert first.request.context == () and first.content == text(100, 6)
    assert second.request.context == (Extent(first.request.chain, 0, 2),)
    assert second.request.hit_tokens == 8


def test_no_turn_begins_after_the_window_and_those_under_way_are_finished() -> None:
    turns = (TurnPlan(4, 4),) * 4  # a second each
    plans = [AgentPlan(0, 0, 16, turns), AgentPlan(1, 1, 16, turns, start_s=1.8)]
    agents, submits, network, progress = run(*plans, window_s=2.0)
    assert [turn.request.id for turn in submits] == [1, 2, 5]
    assert all(turn.done_s > 0 and not turn.reason for turn in agents.turns.values())
    assert progress[-1] == (3, 3)  # what was not begun is no longer planned, nor has it ended
    assert [sent.peer for sent in network.messages(Drain)] == ["a", "b"]


def test_a_record_holds_what_the_client_saw() -> None:
    agents, (turn,), _, _ = run(AgentPlan(0, 0, 16, (TurnPlan(4, 9),)))
    assert agents.turns[1] == TurnRecord(
        turn.request, turn.request.chain, 0.0, 0.05, 0.0, 0.1, 0.9, generated(turn), "kv", "", 0
    )


def test_a_failed_turn_ends_its_agent_and_no_other() -> None:
    async def answer(turn: Submit) -> Message:
        if turn.request.id == 1:
            return TurnFailed(1, "a block is damaged")
        return await done(turn)

    plans = [AgentPlan(n, 0, 16, (TurnPlan(4, 4), TurnPlan(4, 4))) for n in (0, 1)]
    agents, submits, _, progress = run(*plans, answer=answer)
    assert sorted(turn.request.id for turn in submits) == [1, 3, 4]
    assert agents.turns[1].reason == "a block is damaged"
    assert not agents.turns[1].done_s
    assert progress == [(2, 4), (3, 4), (4, 4)]


def test_a_turn_that_never_ends_is_named() -> None:
    async def answer(turn: Submit) -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(ExceptionGroup) as caught:
        run(AgentPlan(0, 0, 16, (TurnPlan(4, 4),)), answer=answer, deadline_s=5)
    assert caught.group_contains(DeadlineExceeded, match="the end of turn 1")


def test_a_message_that_is_not_for_clients_is_an_error() -> None:
    async def answer(turn: Submit) -> Message:
        return Drain()

    with pytest.raises(ExceptionGroup) as caught:
        run(AgentPlan(0, 0, 16, (TurnPlan(4, 4),)), answer=answer)
    assert caught.group_contains(EngineError, match="an agent cannot use Drain")

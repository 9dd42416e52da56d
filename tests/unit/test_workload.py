"""Workloads: averages that are promised, real sessions, and traces that are broken."""

from io import BytesIO
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.agents import AgentPlan, TurnPlan
from testbed.errors import InputError
from testbed.spec import BLOCK_TOKENS
from testbed.spec_workload import FixedWorkload, WekaWorkload
from testbed.workload import Workload, averages, build_workload, loads
from testbed.workload.weka import SESSIONS, read_sessions
from testbed.workload.weka_import import Recording, convert_recordings, select


def contexts(workload: Workload) -> list[int]:
    """Context before each turn, before rounding to blocks."""
    found = []
    for agent in workload.agents:
        context = agent.opening_tokens
        for turn in agent.turns:
            found.append(context)
            context += turn.append_tokens + turn.generate_tokens
    return found


@pytest.mark.parametrize("turns", [1, 2, 5, 20])
@pytest.mark.parametrize("mid_decode", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.9])
def test_fixed_contexts_average_what_the_paper_says(
    turns: int, mid_decode: float, spread: float
) -> None:
    spec = FixedWorkload(agents=60, turns=turns, mid_decode=mid_decode, spread=spread)
    found = contexts(build_workload(spec, 1))
    assert sum(found) / len(found) == pytest.approx(32_721, abs=BLOCK_TOKENS / 2 + 1)


def test_fixed_hits_are_whole_blocks_and_the_tail_is_computed() -> None:
    spec = FixedWorkload(agents=100, turns=4, mid_decode=0)
    turns = list(loads(build_workload(spec, 0), BLOCK_TOKENS))
    assert all(load.hit_tokens % BLOCK_TOKENS == 0 for load in turns)
    assert all(429 <= load.computed_tokens < 429 + BLOCK_TOKENS for load in turns)
    mean = averages(build_workload(spec, 0), BLOCK_TOKENS)
    assert mean.hit_tokens + mean.computed_tokens == pytest.approx(
        32_721 + 429, abs=BLOCK_TOKENS / 2 + 1
    )
    assert 0.98 < mean.hit_rate < 0.9871
    assert mean.generate_tokens == 176


def test_fixed_mid_decode_agents_have_a_remainder_of_their_first_turn_only() -> None:
    spec = FixedWorkload(agents=1000, turns=3, mid_decode=0.5)
    agents = build_workload(spec, 3).agents
    firsts = [agent.turns[0].generate_tokens for agent in agents]
    assert all(1 <= first <= 176 for first in firsts)
    assert 400 < sum(first < 176 for first in firsts) < 600
    assert all(turn.generate_tokens == 176 for agent in agents for turn in agent.turns[1:])


def test_fixed_openings_are_shared_round_robin_and_long_enough() -> None:
    spec = FixedWorkload(agents=50, openings=24, spread=0.5)
    workload = build_workload(spec, 0)
    assert [agent.opening for agent in workload.agents[:25]] == [*range(24), 0]
    tokens = {opening.id: opening.tokens for opening in workload.openings}
    assert set(tokens) == set(range(24))
    for opening in tokens:
        users = [a.opening_tokens for a in workload.agents if a.opening == opening]
        assert tokens[opening] == max(users)


def test_fixed_turns_that_outgrow_the_average_are_bad_input() -> None:
    with pytest.raises(InputError, match="200 turns grow a context beyond"):
        build_workload(FixedWorkload(agents=1, turns=200), 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_same_seed_same_workload(seed: int, agents: int, turns: int) -> None:
    for spec in (
        FixedWorkload(agents=agents, turns=turns),
        WekaWorkload(agents=agents, turns=turns, sessions=5),
    ):
        assert build_workload(spec, seed) == build_workload(spec, seed)


def test_other_seed_other_workload() -> None:
    for spec in (FixedWorkload(agents=20), WekaWorkload(agents=20)):
        assert build_workload(spec, 1) != build_workload(spec, 2)


def test_loads_follow_a_context_that_diverges() -> None:
    turns = (TurnPlan(100, 30), TurnPlan(50, 10, keep_tokens=130), TurnPlan(1, 1))
    agent = AgentPlan(agent=0, opening=0, opening_tokens=200, turns=turns)
    found = [
        (load.prompt_tokens, load.hit_tokens, load.context_tokens)
        for load in loads(Workload((), (agent,), ""), BLOCK_TOKENS)
    ]
    assert found == [(300, 192, 330), (180, 128, 190), (191, 128, 192)]


def test_weka_set_is_the_one_that_its_readme_describes() -> None:
    sessions = read_sessions(SESSIONS)
    turns = [turn for session in sessions for turn in session.turns]
    assert (len(sessions), len(turns)) == (158, 5880)
    assert min(len(session.turns) for session in sessions) == 20
    assert max(prompt for prompt, _, _ in turns) <= 65_536
    assert round(sum(prompt for prompt, _, _ in turns) / len(turns)) == 43_308
    assert round(sum(generated for _, generated, _ in turns) / len(turns)) == 331
    readme = (SESSIONS.parent / "README.md").read_text()
    for fact in ("Apache-2.0", "94f6046dfd9c0c8bc0cdb24a5aa6579bac8669bf", "158", "43,308"):
        assert fact in readme


def test_weka_agents_replay_lengths_of_their_session() -> None:
    spec = WekaWorkload(agents=30, sessions=10, turns=3)
    workload = build_workload(spec, 5)
    recorded = read_sessions(SESSIONS)
    for agent in workload.agents:
        plan = AgentPlan(agent.agent, agent.opening, agent.opening_tokens, agent.turns)
        played = [
            (load.prompt_tokens, load.generate_tokens)
            for load in loads(Workload((), (plan,), ""), BLOCK_TOKENS)
        ]
        assert any(
            played == [turn[:2] for turn in session.turns[start : start + 3]]
            and agent.opening_tokens == sum(session.turns[start - 1][:2])
            for session in recorded
            for start in range(1, len(session.turns) - 2)
        )
    # 0 would mean "keep all" to the agents, and a prompt always brings something new.
    turns = [turn for agent in workload.agents for turn in agent.turns]
    assert all(turn.keep_tokens is None or turn.keep_tokens >= 1 for turn in turns)
    assert all(turn.append_tokens >= 1 for turn in turns)
    assert "on average 3.0" in workload.rule


def test_weka_divergence_and_vanished_tokens(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"id":"a","turns":[[100,20,null],[90,5,64],[92,5,null],[300,1,0]]}\n')
    spec = WekaWorkload(agents=1, sessions=1, turns=3, trace=str(trace))
    (agent,) = build_workload(spec, 0).agents
    assert agent.opening_tokens == 120
    assert agent.turns == (
        TurnPlan(append_tokens=26, generate_tokens=5, keep_tokens=64),
        TurnPlan(append_tokens=1, generate_tokens=5, keep_tokens=91),
        TurnPlan(append_tokens=299, generate_tokens=1, keep_tokens=1),
    )


@pytest.mark.parametrize(
    "line",
    [
        '{"id":"b","turns":[[1,2,nul',
        '{"id":"b","turns":[[1,2]]}',
        '{"id":"b","turns":[[0,2,null]]}',
        '{"id":"b","turns":[[1,-2,null]]}',
        '{"id":"b","turns":[]}',
        '{"id":"b"}',
        "",
    ],
)
def test_broken_trace_line_is_named(tmp_path: Path, line: str) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"id":"a","turns":[[1,1,null],[2,1,null]]}\n' + line + "\n")
    with pytest.raises(InputError) as caught:
        build_workload(WekaWorkload(agents=1, sessions=1, turns=1, trace=str(trace)), 0)
    assert str(caught.value).startswith(f"{trace}:2: not a session")


def test_missing_trace_and_too_few_sessions(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"none\.jsonl: the trace cannot be read"):
        build_workload(WekaWorkload(agents=1, trace=missing), 0)
    with pytest.raises(InputError, match="sessions have 100 turns after their first"):
        build_workload(WekaWorkload(agents=1, turns=100, sessions=20), 0)


def recording(prompts: list[tuple[int, int, list[int]]], kind: str = "s") -> Recording:
    requests = [{"type": kind, "in": i, "out": o, "hash_ids": h} for i, o, h in prompts]
    return msgspec.convert({"id": "x", "requests": requests}, Recording)


def test_import_finds_where_prompts_diverge() -> None:
    turns = [(130, 5, [1, 2]), (200, 5, [1, 2, 3]), (260, 5, [1, 2, 9, 10]), (70, 5, [1])]
    padding = [(70 + i, 5, [1]) for i in range(20)]
    session = select(recording(turns + padding))
    assert session is not None
    assert [keep for _, _, keep in session.turns[:5]] == [None, None, 128, 64, None]


def test_import_selects_by_the_rule() -> None:
    turns = [(1000, 5, [1] * 15)] * 25
    assert select(recording(turns[:19])) is None
    assert select(recording(turns, kind="subagent")) is None
    cut = select(recording([*turns, (65_537, 5, []), *turns]))
    assert cut is not None
    assert len(cut.turns) == 25


def test_import_writes_what_the_reader_reads(tmp_path: Path) -> None:
    requests = [{"type": "n", "in": 100 + i, "out": 3, "hash_ids": [1]} for i in range(21)]
    source = tmp_path / "r.jsonl"
    source.write_bytes(msgspec.json.encode({"id": "x", "requests": requests}) + b"\n")
    out = BytesIO()
    assert convert_recordings([source], out) == 1
    trace = tmp_path / "t.jsonl"
    trace.write_bytes(out.getvalue())
    (session,) = read_sessions(trace)
    assert session.turns[20] == (120, 3, None)


@pytest.mark.parametrize(("content", "says"), [
    (b"", "the trace is empty"),
    (b'{"id":"\xff\xfe","turns":[[1,1,null]]}', "trace.jsonl:1: not a session"),
])  # fmt: skip
def test_odd_traces(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_sessions(path)


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_sessions(Path("a\0b"))


@pytest.mark.parametrize("seed", [0, 1])
def test_drawn_appends_keep_the_average_and_are_as_uneven_as_an_exponential(seed: int) -> None:
    spec = FixedWorkload(agents=400, turns=4, spread=0.9, appends="exponential")
    workload = build_workload(spec, seed)
    appends = [turn.append_tokens for agent in workload.agents for turn in agent.turns]
    mean = sum(appends) / len(appends)
    assert mean == pytest.approx(429, rel=0.002)
    deviation = (sum((append - mean) ** 2 for append in appends) / len(appends)) ** 0.5
    assert deviation / mean == pytest.approx(1.0, abs=0.02)
    assert min(appends) >= 1 and "exponentially" in workload.rule
    found = contexts(workload)
    assert sum(found) / len(found) == pytest.approx(32_721, abs=BLOCK_TOKENS / 2 + 1)
    # An agent's turns differ among themselves: sizes are not dealt out agent by agent.
    assert len({turn.append_tokens for turn in workload.agents[0].turns}) > 1

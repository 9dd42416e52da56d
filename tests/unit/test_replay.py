"""Trajectories: Table 2's averages, the same for every cluster, and never shared by two agents."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest

from engines.agents import AgentPlan, TurnPlan
from testbed.errors import InputError
from testbed.spec import BLOCK_TOKENS, load_experiment
from testbed.spec_workload import ReplayWorkload
from testbed.workload import Workload, averages, build_workload, loads
from testbed.workload.synthetic import SETS, synthesize
from testbed.workload.weka import SESSIONS, read_sessions

FILE = Path(__file__).parents[2] / "topologies" / "replay.yaml"
PREFIX = TurnPlan(BLOCK_TOKENS, 1)

# DualPath, Table 2: rounds, appended and generated tokens a round, total, context before a round.
TABLE_2 = {
    "32k": (60, 608, 148, 28_639, 17_183),
    "48k": (106, 474, 172, 42_607, 25_120),
    "64k": (157, 429, 176, 55_958, 32_721),
}


def played(agent: AgentPlan) -> list[tuple[int, int]]:
    """Prompt and generation of each round."""
    found = loads(Workload((), (agent,), ""), BLOCK_TOKENS)
    return [(load.prompt_tokens, load.generate_tokens) for load in found]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("seed", [0, 1, 4711])
def test_averages_are_those_of_the_papers_table_within_5_percent(name: str, seed: int) -> None:
    trajectories = synthesize(SETS[name], 500, seed)
    contexts = []
    for trajectory in trajectories:
        context = 0
        for turn in trajectory:
            contexts.append(context)
            context += turn.append_tokens + turn.generate_tokens
        assert context <= SETS[name].longest
    found = (
        fmean(len(trajectory) for trajectory in trajectories),
        fmean(fmean(turn.append_tokens for turn in each) for each in trajectories),
        fmean(fmean(turn.generate_tokens for turn in each) for each in trajectories),
        fmean(sum(t.append_tokens + t.generate_tokens for t in each) for each in trajectories),
        fmean(contexts),
    )
    assert found == pytest.approx(TABLE_2[name], rel=0.05)


def test_lengths_vary_from_round_to_round_and_between_trajectories() -> None:
    trajectories = synthesize(SETS["64k"], 100, 0)
    longest = max(trajectories, key=len)
    assert len({turn.append_tokens for turn in longest}) > 50
    assert len(longest) > 5 * min(len(trajectory) for trajectory in trajectories)
    assert all(t.append_tokens >= 1 <= t.generate_tokens for each in trajectories for t in each)


def test_short_runs_have_the_mean_turn_of_the_fixed_kind() -> None:
    mean = averages(build_workload(ReplayWorkload(agents=5000, turns=1), 0), BLOCK_TOKENS)
    assert mean.prompt_tokens == pytest.approx(32_721 + 429, rel=0.05)
    assert mean.generate_tokens == pytest.approx(176, rel=0.05)
    assert mean.hit_rate == pytest.approx(0.987, abs=0.002)


def test_agents_play_the_same_whatever_the_cluster_and_however_many_they_are() -> None:
    few = load_experiment(FILE, ["workload.agents=700"])
    shape = ["cluster.prefill_nodes=16", "cluster.decode_nodes=32"]
    many = load_experiment(FILE, ["workload.agents=5600", *shape])
    plans = [build_workload(each.workload, each.seed).agents for each in (few, many)]
    assert plans[1][:700] == plans[0]
    again = build_workload(few.workload, few.seed).agents
    assert again == plans[0] != build_workload(few.workload, 1).agents


def test_each_trajectory_is_played_once_before_one_is_drawn_again() -> None:
    spec = ReplayWorkload(agents=60, trajectories=20)
    agents = build_workload(spec, 3).agents
    firsts = [agent.turns for agent in agents[:20]]
    assert len(set(firsts)) == 20
    drawn = Counter(agent.turns[1:] for agent in agents[20:])
    assert set(drawn) < set(firsts) and max(drawn.values()) > 1  # with replacement
    assert all(agent.turns[0] == PREFIX for agent in agents[20:])


def test_no_agent_shares_its_opening() -> None:
    workload = build_workload(ReplayWorkload(agents=300, trajectories=5, turns=2), 0)
    assert len({agent.opening for agent in workload.agents}) == 300
    tokens = {opening.id: opening.tokens for opening in workload.openings}
    assert all(tokens.get(a.opening, 0) == a.opening_tokens for a in workload.agents)
    assert "295 agents have one drawn again, behind a round of 64 random" in workload.rule


def test_a_drawn_run_lies_inside_its_trajectory_with_all_before_it_in_the_opening() -> None:
    spec = ReplayWorkload(agents=40, trajectories=10, turns=3)
    whole = build_workload(ReplayWorkload(agents=10, trajectories=10), 6).agents
    rounds = [played(agent) for agent in whole]
    places = set()
    for agent in build_workload(spec, 6).agents:
        shift = 0 if agent.agent < 10 else PREFIX.append_tokens + PREFIX.generate_tokens
        mine = [(prompt - shift, generated) for prompt, generated in played(agent)]
        found = [
            start
            for each in rounds
            for start in range(len(each) - 2)
            if each[start : start + 3] == mine
            and agent.opening_tokens - shift == (sum(each[start - 1]) if start else 0)
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 20


def test_the_first_run_begins_with_nothing_in_storage() -> None:
    spec = ReplayWorkload(agents=40, trajectories=10, turns=3, start="first")
    workload = build_workload(spec, 6)
    whole = build_workload(ReplayWorkload(agents=10, trajectories=10), 6).agents
    assert workload.openings == ()
    for agent in workload.agents[:10]:
        assert (agent.opening_tokens, agent.turns) == (0, whole[agent.agent].turns[:3])
    starts = {agent.turns[:3] for agent in whole}
    for agent in workload.agents[10:]:  # the random round is on top of the three
        assert agent.turns[0] == PREFIX and agent.turns[1:] in starts


def test_a_longer_prefix() -> None:
    spec = ReplayWorkload(agents=2, trajectories=1, prefix_tokens=640)
    _, again = build_workload(spec, 0).agents
    assert again.turns[0] == TurnPlan(640, 1)


def test_trajectories_that_are_too_short_are_played_whole() -> None:
    spec = ReplayWorkload(agents=500, turns=40)
    workload = build_workload(spec, 0)
    short = [agent for agent in workload.agents if len(agent.turns) < 40]
    assert 0 < len(short) < 100
    assert f"({len(short)} have fewer and are played whole)" in workload.rule
    whole = build_workload(ReplayWorkload(agents=500), 0).agents
    assert all(agent.turns == whole[agent.agent].turns for agent in short)


def test_recorded_sessions_are_trajectories_from_their_first_prompt_on() -> None:
    workload = build_workload(ReplayWorkload(agents=158, set="weka-coding"), 0)
    recorded = Counter(tuple(turn[:2] for turn in s.turns) for s in read_sessions(SESSIONS))
    assert Counter(tuple(played(agent)) for agent in workload.agents) == recorded
    assert "one of 158 recorded sessions of weka-coding" in workload.rule


def test_what_a_recorded_round_keeps_begins_with_the_prefix(tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"id":"a","turns":[[100,20,null],[90,5,64],[99,5,null]]}\n')
    first, again = build_workload(ReplayWorkload(agents=2, trace=str(trace)), 0).agents
    assert [turn.keep_tokens for turn in first.turns] == [None, 64, None]
    assert [turn.keep_tokens for turn in again.turns] == [None, None, 64 + 65, None]
    assert played(again)[1:] == [(prompt + 65, generated) for prompt, generated in played(first)]


def test_a_trace_lies_beside_the_experiment(tmp_path: Path) -> None:
    lines = [
        {"id": str(n), "turns": [[100 + n, 9, None], [200, 9, None], [300, 9, None]]}
        for n in range(4)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "x.yaml").write_text(FILE.read_text().replace("set: 64k", "trace: mine.jsonl"))
    experiment = load_experiment(tmp_path / "x.yaml", ["workload.agents=8"])
    assert "one of 4 recorded sessions of mine.jsonl" in build_workload(experiment.workload, 0).rule


@pytest.mark.parametrize(("settings", "says"), [
    (["set=16k"], "workload.set is '16k'; it must be one of"),
    (["turns=0"], "workload.turns is 0; it must be a whole number at least 1"),
    (["turns=9000"], "workload.turns is 9000, but the longest of 500 trajectories has"),
    (["start=middle"], "workload.start is 'middle'; it must be one of drawn, first"),
    (["turns=null"], "workload.start is drawn, but workload.turns does not say"),
    (["trace=x.jsonl"], "both workload.set and workload.trace"),
    (["set=weka-coding", "trajectories=159"], "holds 158 sessions, but workload.trajectories is"),
    (["prefix_tokens=63"], "workload.prefix_tokens is 63; it must be a whole number at least 64"),
    (["set=null", "trace=none.jsonl"], "none.jsonl: the trace cannot be read"),
])  # fmt: skip
def test_bad_input_names_the_key(settings: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        experiment = load_experiment(FILE, [f"workload.{setting}" for setting in settings])
        build_workload(experiment.workload, experiment.seed)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_forty_nine_thousand_agents_share_the_rounds_that_they_play() -> None:
    agents = build_workload(ReplayWorkload(agents=49_152), 0).agents
    assert len({id(agent.turns) for agent in agents}) <= 1000
    assert all(one.agent + 1 == other.agent for one, other in pairwise(agents))

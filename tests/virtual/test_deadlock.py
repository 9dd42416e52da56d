"""A world in which nothing can happen any more ends at once, and says who waits for what."""

from pathlib import Path
from typing import Any

import pytest

from engines.agents import AgentPlan, Agents
from engines.messages import Granted, Message, Persisted
from engines.modelled.transport import FluidTransport
from engines.seams.transport import TrafficClass
from engines.waits import Arena
from scheduler import policies
from testbed.cli.main import main

ROOT = Path(__file__).parents[2]
FEW = ("workload.agents=6", "workload.turns=1", "workload.openings=2")
FORGETFUL = """
from scheduler.policies.dualpath import DualPath

class Forgetful(DualPath):
    def arrived(self, cluster, request):
        if request.id != 3:
            yield from super().arrived(cluster, request)

POLICY = Forgetful
"""


def play(
    runs: Path, capsys: pytest.CaptureFixture[str], *settings: str, verb: str = "run",
    policy: str = "dualpath", code: int = 1,
) -> str:  # fmt: skip
    """What the command said last."""
    words = [verb, str(ROOT / "topologies/1p1d.yaml"), "--world", "virtual", "--runs", str(runs)]
    words += ["--policy" if verb == "run" else "--policies", policy, "--json"]
    for setting in (*FEW, *settings):
        words += ["--set", setting]
    assert main(words) == code
    return (capsys.readouterr().err.splitlines() or [""])[-1]


def lose(monkeypatch: pytest.MonkeyPatch, kind: type[Message]) -> None:
    """The first message of a kind is lost on its way."""
    lost: list[Message] = []
    post = FluidTransport.post

    def careless(
        self: FluidTransport, peer: str, message: Message,
        traffic_class: TrafficClass = TrafficClass.CTRL,
    ) -> None:  # fmt: skip
        if isinstance(message, kind) and not lost:
            lost.append(message)
        else:
            post(self, peer, message, traffic_class)

    monkeypatch.setattr(FluidTransport, "post", careless)


def stopped_s(said: str) -> float:
    """When the world stood still."""
    assert "nothing has happened since" in said
    return float(said.split("since ")[1].split(" s")[0])


@pytest.mark.parametrize("verb", ["run", "compare"])
def test_a_turn_that_no_policy_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path)])
    names = "forgetful" if verb == "run" else "forgetful,dualpath"
    said = play(tmp_path / "runs", capsys, verb=verb, policy=names)
    assert "policy forgetful: the policy leaves turns undecided" in said
    assert "sched: turn 3 for the policy's decision; agents: the end of turn 3" in said
    assert stopped_s(said) < 60


def test_a_grant_that_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, Granted)
    said = play(tmp_path, capsys)
    assert "pe0-gpu: turn 1 for room in the DE buffer to be granted" in said
    assert "de0-buf: the last layer of turn 1" in said and "agents: the end of turn 1" in said
    assert "turn 2" not in said
    assert stopped_s(said) < 60


def test_blocks_whose_keeping_nobody_hears_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, Persisted)
    said = play(tmp_path, capsys)
    assert "for store0 to keep Extent(" in said and "de0-gpu: the last block of turn" in said
    assert stopped_s(said) < 60


def test_memory_that_is_never_given_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give = Arena.give

    def keep(self: Arena, slot: int) -> None:
        if "decode HBM" not in self._what:
            give(self, slot)

    monkeypatch.setattr(Arena, "give", keep)
    small = ("cluster.gpus_per_node=1", "hardware.hbm_kv_bytes_per_gpu=1.4e9",
             "engine.prefill_gpu_pool_bytes=1.4e9")  # fmt: skip
    said = play(tmp_path, capsys, *small)
    assert "tokens of decode HBM of de0/0," in said
    assert "de0-buf: room in decode HBM for turn" in said
    assert stopped_s(said) < 60


def test_an_agent_that_starts_late_is_no_deadlock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    play_now = Agents._play

    async def late(self: Agents, plan: AgentPlan) -> Any:
        await self._clock.sleep_until_s(200.0 * plan.agent)
        await play_now(self, plan)

    monkeypatch.setattr(Agents, "_play", late)
    play(tmp_path, capsys, code=0)


def test_a_decode_whose_tokens_take_long_is_no_deadlock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(tmp_path, capsys, "model.tpot_s=10", "engine.deadline_s=80000", code=0)

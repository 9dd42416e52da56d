"""A scheduler that loses all it knows: no turn is lost, none runs twice, nothing is left over."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engines.agents import OPENING_CHAINS, Agents
from engines.buffer import Buffer
from engines.decode import Decode
from engines.messages import Assign, Drain, Message
from engines.modelled.checked import CheckedStore
from engines.modelled.transport import Wires
from engines.prefill import Prefill
from engines.service import Service
from testbed.cli.main import main
from testbed.worlds import roles
from testbed.worlds.held import HeldKv

ROOT = Path(__file__).parents[2]
SMALL = (
    "workload.agents=24", "workload.turns=3", "workload.openings=4", "engine.kv_samples=1",
    "engine.real_kv=true",
)  # fmt: skip
END_S = 26.0  # about when the last of these turns is over


class Hosts:
    """Every host of the runs of a test, to look at when they are over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[Any] = []
        for kind in (Agents, Buffer, Decode, Prefill, Service):
            monkeypatch.setattr(roles, kind.__name__, self._kept(kind))

    def _kept(self, kind: type[Any]) -> Callable[..., Any]:
        def make(*arguments: Any) -> Any:
            self.all.append(kind(*arguments))
            return self.all[-1]

        return make

    def of(self, kind: type[Any]) -> list[Any]:
        return [host for host in self.all if isinstance(host, kind)]

    def held(self) -> Iterator[str]:
        """What a host still has, though all turns are over."""
        for decode in self.of(Decode):
            yield from (f"{number} in {decode}" for number in decode._sequences)
            yield from (name for name, lane in decode._lanes.items() if lane._requests)
            arenas = [decode._outbox, *(lane.hbm for lane in decode._lanes.values())]
            yield from (arena._what for arena in arenas if arena._slots._held)
        for prefill in self.of(Prefill):
            yield from (f"{number} in {prefill}" for number in prefill._turns)
            yield from (name for name, lane in prefill._lanes.items() if lane.turns)
            yield from (["HBM"] if prefill._hbm._slots._held else [])
        for buffer in self.of(Buffer):
            yield from (f"{number} in {buffer}" for number in buffer._turns)
            yield from (["DRAM"] if buffer._dram._slots._held or buffer._queued_tokens else [])
        for service in self.of(Service):
            yield from (f"{number} in the scheduler" for number in service._turns)


class Losses:
    """A process that is killed takes with it what it sent and was sent last.

    Of each connection from and to the scheduler's host an end is lost, of up to `longest_s`; half
    of the assignments that are lost so come after all, when the next term has begun. And each
    connection from and to the scheduler's host and the clients' has a latency of its own.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int, longest_s: float) -> None:
        self.lost = self.late = 0
        self._random = Random(seed)
        self._longest_s = longest_s
        self._cuts: dict[tuple[str, str, float], float] = {}
        self._latencies_s: dict[tuple[str, str], float] = {}
        self._post = Wires.post
        losses = self

        def post(wires: Wires, sender: str, peer: str, message: Message) -> None:
            losses.post(wires, sender, peer, message)

        monkeypatch.setattr(Wires, "post", post)
        self._restarts_s: list[float] = []
        restart = Service.restart

        def restarted(service: Service) -> None:
            self._restarts_s.pop(0)
            restart(service)

        monkeypatch.setattr(Service, "restart", restarted)

    def plan(self, restarts_s: list[float]) -> None:
        self._restarts_s = list(restarts_s)

    def post(self, wires: Wires, sender: str, peer: str, message: Message) -> None:
        if isinstance(message, Drain):  # behind all that is still under way
            wires.loop.call_later(1.0, self._post, wires, sender, peer, message)
            return
        if not self._is_lost(wires.loop.time(), sender, peer):
            if latency_s := self._latency_s(sender, peer):
                wires.loop.call_later(latency_s, self._post, wires, sender, peer, message)
                return
            return self._post(wires, sender, peer, message)
        self.lost += 1
        if isinstance(message, Assign) and self._random.random() < 0.5:
            self.late += 1
            late_s = self._restarts_s[0] + self._random.choice([0.0003, 0.02, 0.3])
            wires.loop.call_at(late_s, self._post, wires, sender, peer, message)

    def _latency_s(self, sender: str, peer: str) -> float:
        if not {"sched", "agents"} & {sender, peer}:
            return 0.0
        slow_s = self._random.choice([0.0, 0.0, 0.001, 0.03, 0.2])
        return self._latencies_s.setdefault((sender, peer), slow_s)

    def _is_lost(self, now_s: float, sender: str, peer: str) -> bool:
        if "sched" not in (sender, peer) or not self._restarts_s:
            return False
        restart_s = self._restarts_s[0]
        connection = sender, peer, restart_s
        if connection not in self._cuts:
            lost_s = self._random.choice([0, self._random.random()]) * self._longest_s
            self._cuts[connection] = restart_s - lost_s
        return now_s >= self._cuts[connection]


def play(
    runs: Path, capsys: pytest.CaptureFixture[str], restarts_s: list[float], *settings: str,
    policy: str = "dualpath", code: int = 0,
) -> dict[str, Any]:  # fmt: skip
    words = ["run", str(ROOT / "topologies/1p2d.yaml"), "--world", "virtual", "--json",
             "--require", "functional", "--runs", str(runs), "--policy", policy]  # fmt: skip
    for setting in (*SMALL, *settings, f"engine.scheduler_restart_s={restarts_s}"):
        words += ["--set", setting]
    assert main(words) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["policies"][policy]
    return found


def check(found: dict[str, Any], hosts: Hosts) -> None:
    """Every turn ended once, every token is right, nothing moved twice, nothing is held."""
    assert found["completed_turns"] == found["kv_checked"] == found["kv_equal"] == 72
    assert found["failed_turns"] == 0
    assert found["tokens_equal"] == found["tokens_checked"] > 72
    assert sum(decode.account["turns"] for decode in hosts.of(Decode)) == 72
    for line in found["ledger"]:
        assert line["counted_bytes"] == line["expected_bytes"], line["port"]
    assert list(hosts.held()) == []


def moments(seed: int, count: int) -> list[float]:
    """Some at random, and some just after another."""
    random = Random(seed)
    firsts = [round(random.uniform(0.01, END_S), 4) for _ in range(count)]
    seconds = [s + random.choice([1e-4, 3e-4, 0.01, 0.06, 0.11]) for s in firsts[::2]]
    return sorted({*firsts, *(round(second, 4) for second in seconds)})


@pytest.mark.parametrize("seed", range(8))
def test_no_turn_is_lost_and_none_runs_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    hosts = Hosts(monkeypatch)
    restarts_s = moments(seed, 6)
    found = play(tmp_path, capsys, restarts_s)
    check(found, hosts)
    assert [one["at_s"] for one in found["restarts"]] == pytest.approx(
        [at_s for at_s in restarts_s if at_s < hosts.of(Service)[0]._clock.now_s()]
    )


@pytest.mark.parametrize("policy", ["dualpath", "basic"])
@pytest.mark.parametrize("seed", range(12))
def test_assignments_that_came_to_some_hosts_only_or_too_late_harm_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seed: int,
    policy: str,
) -> None:  # fmt: skip
    hosts, losses = Hosts(monkeypatch), Losses(monkeypatch, seed, longest_s=1.0)
    restarts_s = moments(100 + seed, 6)
    losses.plan(restarts_s)
    found = play(tmp_path, capsys, restarts_s, policy=policy)
    check(found, hosts)
    assert losses.lost > 0


def test_some_of_these_assignments_had_to_be_repeated_and_some_were_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above would prove little if no turn was ever half assigned."""
    losses = Losses(monkeypatch, 6, longest_s=1.0)
    restarts_s = moments(106, 6)
    losses.plan(restarts_s)
    found = play(tmp_path, capsys, restarts_s, policy="basic")
    assert losses.late > 10
    assert sum(one["repeated"] for one in found["restarts"]) > 10
    assert sum(one["undecided"] for one in found["restarts"]) > 0


def test_turns_that_fail_while_the_scheduler_is_away_end_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = HeldKv.store

    def damaged(self: HeldKv, host: str) -> CheckedStore:
        store = fill(self, host)
        kv, _ = store.blocks[OPENING_CHAINS, 7]
        kv[0, 2] ^= 1 << 40
        return store

    monkeypatch.setattr(HeldKv, "store", damaged)
    for seed in range(6):
        hosts, losses = Hosts(monkeypatch), Losses(monkeypatch, seed, longest_s=0.3)
        # The damaged block is read in the first second.
        restarts_s = [0.2 + 0.1 * seed, 0.9, 1.3]
        losses.plan(restarts_s)
        found = play(tmp_path / str(seed), capsys, restarts_s, code=1)
        assert found["failed_turns"] == 18 and found["completed_turns"] == 54  # 6 agents of 24
        assert all(reason.startswith("block 7 of the prompt") for reason in found["failures"])
        assert found["tokens_equal"] == found["tokens_checked"]
        assert list(hosts.held()) == []
        monkeypatch.undo()
        monkeypatch.setattr(HeldKv, "store", damaged)


def test_the_cluster_serves_after_a_restart_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("workload.agents=240", "engine.real_kv=false", "engine.kv_samples=0")
    plain, restarted = (
        play(tmp_path / str(len(at_s)), capsys, at_s, *settings) for at_s in ([], [12.0, 15.0])
    )
    assert plain["restarts"] == [] and len(restarted["restarts"]) == 2
    for one in restarted["restarts"]:
        # A member reports within a period of 0.05 s, its leader fetches within another.
        assert 0 < one["away_s"] < 0.11
        assert one["taken_over"] + one["undecided"] > 200 and one["repeated"] == 0
    for key in ("mean", "p99"):
        assert restarted["jct_s"][key] == pytest.approx(plain["jct_s"][key], rel=0.02)
    rate = plain["throughput_turns_per_s"]
    assert restarted["throughput_turns_per_s"] == pytest.approx(rate, rel=0.03)
    assert restarted["completed_turns"] == plain["completed_turns"] == 720

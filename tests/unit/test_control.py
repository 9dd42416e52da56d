"""Reports: the leader's fetch holds everybody's, once a period, and not before all are heard."""

import anyio
import pytest
from fakes import EXCHANGE, FakeClock, FakeTransport, Network, play

from engines.config import GroupConfig
from engines.control import Reporter
from engines.messages import Report
from engines.seams.clock import Clock
from scheduler.types import EngineReport, NodeReport

MEMBERS = ("gpu0", "gpu1", "buf")


def reporter(
    host: str,
    network: Network,
    clock: Clock | None = None,
    period_s: float = 0.5,
    phase_s: float = 0.0,
) -> Reporter:
    def own() -> Report:
        if host == "buf":
            return Report("g", (), (NodeReport("n", 7, 3),))
        return Report("g", (EngineReport(f"n/{host}", 1, 20, 30, 2),), ())

    group = GroupConfig("g", "gpu0", MEMBERS[:2], MEMBERS, "sched", period_s, phase_s, EXCHANGE)
    return Reporter(host, group, clock or FakeClock(), FakeTransport(host, network), own)


def test_members_tell_the_leader_and_the_leader_the_scheduler() -> None:
    async def test() -> None:
        network = Network()
        leader = reporter("gpu0", network)

        async def listen() -> None:
            while True:
                delivery = await network.next("gpu0")
                assert isinstance(delivery.message, Report)
                leader.hear(delivery.sender, delivery.message)

        async with anyio.create_task_group() as tasks:
            for one in (leader, reporter("gpu1", network), reporter("buf", network)):
                tasks.start_soon(one.run)
            tasks.start_soon(listen)
            await anyio.sleep(5.2)
            tasks.cancel_scope.cancel()
        fetches = [sent for sent in network.log if sent.peer == "sched"]
        assert {sent.sender for sent in fetches} == {"gpu0"}
        assert [sent.at_s for sent in fetches] == pytest.approx([0.5 * n for n in range(2, 11)])
        assert all(
            sent.message
            == Report(
                "g",
                (EngineReport("n/gpu0", 1, 20, 30, 2), EngineReport("n/gpu1", 1, 20, 30, 2)),
                (NodeReport("n", 7, 3),),
            )
            for sent in fetches
        )

    play(test)


def test_the_leader_waits_for_every_member() -> None:
    async def test() -> None:
        network = Network()
        leader = reporter("gpu0", network)
        leader.hear("gpu1", Report("g", (), ()))
        leader.hear("gpu1", Report("g", (), ()))
        with anyio.move_on_after(2.2):
            await leader.run()
        assert not network.log
        leader.hear("buf", Report("g", (), ()))
        with anyio.move_on_after(1):
            await leader.run()
        assert len(network.log) == 2

    play(test)


@pytest.mark.parametrize("terms", [(1, 2), (2, 1), (2, 2)])
def test_the_leader_merges_reports_of_its_own_term_alone(terms: tuple[int, int]) -> None:
    async def test() -> None:
        network = Network()
        leader = reporter("gpu0", network)
        for member, term in zip(("gpu1", "buf"), terms, strict=True):
            leader.hear(member, Report("g", (), (), term))
        with anyio.move_on_after(1.2):
            await leader.run()
        assert not network.log
        for member in ("gpu1", "buf"):
            leader.hear(member, Report("g", (), (), 1))
        with anyio.move_on_after(0.6):
            await leader.run()
        assert len(network.log) == 1

    play(test)


def test_a_group_keeps_its_phase() -> None:
    async def test() -> None:
        network = Network()
        with anyio.move_on_after(2.2):
            await reporter("buf", network, phase_s=0.125).run()
        assert [s.at_s for s in network.log] == pytest.approx([0.625, 1.125, 1.625, 2.125])

    play(test)


class ExactClock(FakeClock):
    """Wakes at the very moment that it was asked for, as a virtual clock does."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.standing = 0

    def now_s(self) -> float:
        return self.at_s

    async def sleep_until_s(self, when_s: float) -> None:
        await anyio.lowlevel.checkpoint()
        self.standing = self.standing + 1 if when_s <= self.at_s else 0
        assert self.standing < 5, f"the clock stands at {self.at_s}"
        self.at_s = max(self.at_s, when_s)
        if self.at_s > 10:
            await anyio.sleep_forever()


def test_reports_go_on_under_a_clock_that_wakes_exactly_on_the_grid() -> None:
    async def test() -> None:
        network = Network()
        with anyio.move_on_after(1):
            await reporter("buf", network, ExactClock(), period_s=0.05).run()
        assert len(network.log) == 200

    play(test)

"""Lockstep of a group: steps and layers wait for every engine, whoever is ahead."""

import anyio
import pytest
from fakes import FakeClock, FakeTransport, Network, play

from engines.collective import Collective, Step
from engines.config import GroupConfig
from engines.errors import DeadlineExceeded
from engines.messages import Barrier, Join
from engines.seams.transport import TrafficClass

HOSTS = ("a", "b")


def collective(host: str, network: Network, hosts: tuple[str, ...] = HOSTS) -> Collective:
    group = GroupConfig("g", hosts[0], hosts, hosts, "sched", 0.5, 0.0, 16)
    return Collective(host, group, FakeClock(), FakeTransport(host, network), 10.0)


async def listen(host: str, one: Collective, network: Network) -> None:
    while True:
        delivery = await network.next(host)
        assert isinstance(delivery.message, Join | Barrier)
        one.hear(delivery.sender, delivery.message)


def test_the_slowest_engines_time_is_everybodys_and_layers_wait_for_all() -> None:
    ended: dict[str, list[float]] = {host: [] for host in HOSTS}
    joined: dict[str, Step] = {}

    async def step(host: str, one: Collective, layer_s: float, late_s: float) -> None:
        await anyio.sleep(late_s)
        joined[host] = await one.join(layer_s, layer_s / 10, anyio.current_time())
        for layer in range(3):
            await anyio.sleep(layer_s)
            end_s = await one.barrier(layer, anyio.current_time())
            assert end_s == pytest.approx(anyio.current_time())
            ended[host].append(end_s)

    async def test() -> None:
        network = Network()
        both = {host: collective(host, network) for host in HOSTS}
        async with anyio.create_task_group() as hearing:
            for host, one in both.items():
                hearing.start_soon(listen, host, one, network)
            async with anyio.create_task_group() as steps:
                steps.start_soon(step, "a", both["a"], 0.1, 0.0)
                steps.start_soon(step, "b", both["b"], 0.3, 1.0)
            hearing.cancel_scope.cancel()
        assert {sent.traffic_class for sent in network.log} == {TrafficClass.MODEL}
        loads = [s.message.load for s in network.log if isinstance(s.message, Barrier)]
        assert len(loads) == 6 and {len(load) for load in loads} == {16}

    play(test)
    # The slowest attention, the mean of what all bring for the experts, and the latest start.
    assert joined["a"] == joined["b"] == (0.3, pytest.approx(0.02), pytest.approx(1.0))
    assert joined["a"].layer_s == pytest.approx(0.32)
    for host in HOSTS:
        assert ended[host] == pytest.approx([1.3, 1.6, 1.9])


def test_a_peer_may_be_a_step_ahead() -> None:
    async def test() -> None:
        one = collective("a", Network())
        assert not one.called
        one.hear("b", Join(0, 0.5, 0.25, 2.0))
        assert one.called
        one.hear("b", Barrier(0, 0, 2.5, b""))
        one.hear("b", Join(1, 0.7, 0.0, 4.0))
        assert await one.join(0.1, 0.75, 3.0) == (0.5, 0.5, 3.0)
        assert await one.barrier(0, 2.1) == 2.5
        assert one.called
        assert await one.join(0.9, 0.0, 3.0) == (0.9, 0.0, 4.0)
        assert not one.called

    play(test)


def test_a_barrier_of_another_layer_or_step_does_not_count() -> None:
    async def test() -> None:
        one = collective("a", Network())
        one.hear("b", Join(0, 0.5, 0.25, 2.0))
        await one.join(0.1, 0.0, 2.0)
        one.hear("b", Barrier(0, 1, 2.5, b""))
        one.hear("b", Barrier(1, 0, 2.5, b""))
        with pytest.raises(DeadlineExceeded, match="peers of step 0"):
            await one.barrier(0, 2.1)

    play(test)


def test_a_group_of_one_exchanges_nothing() -> None:
    async def test() -> None:
        network = Network()
        one = collective("a", network, ("a",))
        assert await one.join(0.25, 0.5, 1.0) == (0.25, 0.5, 1.0)
        assert await one.barrier(0, 1.25) == 1.25
        assert not network.log and not one.called

    play(test)

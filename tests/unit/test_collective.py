"""Lockstep of a group: steps and layers wait for every engine, whoever is ahead."""

from collections import Counter

import anyio
import pytest
from fakes import EXCHANGE, FakeClock, FakeTransport, Network, play

from engines.collective import PIECE_BYTES, Collective, Step, load_bytes
from engines.config import GroupConfig
from engines.errors import DeadlineExceeded
from engines.messages import Barrier, Join
from engines.seams.transport import TrafficClass

HOSTS = ("a", "b")


def collective(host: str, network: Network, hosts: tuple[str, ...] = HOSTS) -> Collective:
    group = GroupConfig("g", hosts[0], hosts, hosts, "sched", 0.5, 0.0, EXCHANGE)
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
            met_s = await one.dispatch(layer, anyio.current_time(), 100)
            end_s = await one.combine(layer, met_s)
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
        exchanges = [sent for sent in network.log if isinstance(sent.message, Barrier)]
        assert {sent.traffic_class for sent in exchanges} == {TrafficClass.MODEL}
        loads = Counter(len(sent.message.load) for sent in exchanges)
        assert loads == {100: 6, 200: 6}

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
        one.hear("b", Barrier(0, 0, 2.5, b"", combine=True))
        assert await one.dispatch(0, 2.1, 0) == await one.combine(0, 2.5) == 2.5
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
        one.hear("b", Barrier(0, 0, 2.5, b"", combine=True))
        with pytest.raises(DeadlineExceeded, match="peers of step 0"):
            await one.dispatch(0, 2.1, 0)

    play(test)


def test_a_group_of_one_exchanges_nothing() -> None:
    async def test() -> None:
        network = Network()
        one = collective("a", network, ("a",))
        assert await one.join(0.25, 0.5, 1.0) == (0.25, 0.5, 1.0)
        assert await one.dispatch(0, 1.25, 5) == await one.combine(0, 1.25) == 1.25
        assert not one.account()
        assert not network.log and not one.called

    play(test)


def test_a_message_weighs_what_its_tokens_do_and_never_nothing() -> None:
    assert load_bytes(EXCHANGE, 0, combine=False) == load_bytes(EXCHANGE, 0, combine=True) == 16
    assert load_bytes(EXCHANGE, 100, combine=False) == 100
    assert load_bytes(EXCHANGE, 100, combine=True) == 200


def test_a_layers_dispatch_comes_before_its_combine_and_large_loads_in_pieces() -> None:
    async def test() -> None:
        network = Network()
        one = collective("a", network)
        one.hear("b", Join(0, 0.0, 0.0, 1.0))
        await one.join(0.0, 0.0, 1.0)
        for layer in range(2):
            one.hear("b", Barrier(0, layer, 1.0, b"", tokens=PIECE_BYTES))
            one.hear("b", Barrier(0, layer, 1.0, b"", combine=True))
            await one.dispatch(layer, 1.0, tokens=PIECE_BYTES)
            await one.combine(layer, 1.0)
        sent = [s.message for s in network.log if isinstance(s.message, Barrier)]
        dispatch, *combine = [(False, True, PIECE_BYTES), (True, False, PIECE_BYTES),
                              (True, True, 2 * PIECE_BYTES)]  # fmt: skip
        assert [(m.layer, (m.combine, m.last, m.size_bytes)) for m in sent] == [
            (layer, what) for layer in range(2) for what in (dispatch, *combine)
        ]

    play(test)


def test_everybody_gets_its_own_tokens_back() -> None:
    async def test() -> None:
        network = Network()
        one = collective("a", network, ("a", "b", "c"))
        one.hear("b", Barrier(-1, 0, 1.0, b"", tokens=100))
        one.hear("c", Barrier(-1, 0, 1.0, b"", tokens=300))
        for peer in ("b", "c"):
            one.hear(peer, Barrier(-1, 0, 1.0, b"", combine=True))
        await one.dispatch(0, 1.0, tokens=50)
        await one.combine(0, 1.0)
        sent = [(s.peer, s.message) for s in network.log if isinstance(s.message, Barrier)]
        assert [(peer, m.size_bytes) for peer, m in sent] == [
            ("b", 50), ("c", 50), ("b", 200), ("c", 600),
        ]  # fmt: skip
        # All four leave one after the other on an idle link: who gets the last knows by when.
        assert [m.clear_s for _, m in sent] == pytest.approx([1e-4, 1e-4, 9e-4, 9e-4])

    play(test)


def test_a_message_may_wait_for_what_is_still_on_its_way_here() -> None:
    async def test() -> None:
        one = collective("a", Network())
        for combine, network_s in ((False, 0.0), (True, EXCHANGE.idle_s + 0.1 + 0.02)):
            load = bytes(10_000 if combine else 100_000)  # 0.01 s and 0.1 s of the link
            posted_s = 1.01 if combine else 1.0
            message = Barrier(-1, 0, 1.0, load, combine, posted_s=posted_s, clear_s=0.01)
            one.hear("b", message, network_s)
        await one.dispatch(0, 1.0, 0)
        assert await one.combine(0, 1.0) == 1.0
        assert one.excess_s == pytest.approx([0.0, 0.0])

    play(test)


def test_what_the_network_takes_beyond_an_idle_one_delays_the_layer_and_nothing_else_does() -> None:
    load, clear_s = bytes(1000), 0.003

    def heard(layer: int, end_s: float, combine: bool = False, last: bool = True) -> Barrier:
        at_s = 10.0 * layer + 5 * combine  # exchanges far apart
        return Barrier(0, layer, end_s, load, combine, last, posted_s=at_s, clear_s=clear_s)

    async def test() -> None:
        one = collective("a", Network())
        one.hear("b", Join(0, 0.0, 0.0, 1.0))
        await one.join(0.0, 0.0, 1.0)
        idle_s = EXCHANGE.idle_s + clear_s + len(load) / EXCHANGE.bytes_per_s
        one.hear("b", heard(0, 1.0), idle_s)
        assert await one.dispatch(0, 1.0, 10) == 1.0
        one.hear("b", heard(0, 1.0, combine=True), idle_s + 0.25)
        assert await one.combine(0, 1.0) == pytest.approx(1.25)
        # A peer that was late itself is no fault of the network, and no piece but the last counts.
        one.hear("b", heard(1, 1.5, last=False), 9.0)
        one.hear("b", heard(1, 1.5), idle_s)
        assert await one.dispatch(1, 1.25, 10) == 1.5
        one.hear("b", heard(1, 1.5, combine=True), 0.0)
        assert await one.combine(1, 1.5) == 1.5
        account = one.account()
        assert account["layers"] == 2 and account["delayed"] == [0]
        assert account["network_s"] == [idle_s, idle_s + 0.25, idle_s, 0.0]

    play(test)

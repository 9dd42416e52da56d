"""Ways with a delay over loopback: what a host sees comes late, what crosses the link does not."""

from collections.abc import Callable

import anyio
import msgspec
import numpy as np
import pytest
from tcp_hosts import ONE_ROW, filled, pair, run

from engines.errors import DeadlineExceeded, TransferError
from engines.kv import Span
from engines.messages import Start
from engines.real.tcp import TcpTransport
from engines.seams.transport import TrafficClass, Write

BLOCKS = 40
LONG_S = 1.5  # longer than a loaded machine takes for what is sent here


def delayed(delay_s: float) -> tuple[TcpTransport, TcpTransport]:
    """Hosts "a" and "b", each with a region, and a delay either way."""
    a, b = pair(delays_s={"a": delay_s, "b": delay_s})
    a.register(filled("src", ONE_ROW, BLOCKS, 1))
    b.register(filled("dst", ONE_ROW, BLOCKS, 2))
    return a, b


def block(number: int) -> Write:
    span = Span("src", number * 64, 0, 64, 0, 4)
    return Write(span, msgspec.structs.replace(span, region="dst"), Start(number), number)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await anyio.sleep(0.001)  # the caller has a deadline


async def numbers(host: TcpTransport, count: int) -> list[int]:
    messages = [(await host.receive()).message for _ in range(count)]
    return [message.request for message in messages if isinstance(message, Start)]


@pytest.mark.parametrize("uvloop", [True, False])
def test_a_doorbell_comes_a_delay_later_and_its_acknowledgement_two(uvloop: bool) -> None:
    async def main() -> None:
        a, b = delayed(0.05)
        async with a, b:
            before_s = a._clock.now_s()
            arrived_s = await a.write("b", [block(0)], deadline_s=5)
            assert arrived_s >= before_s + 0.05
            assert a._clock.now_s() >= arrived_s + 0.05
            delivery = await b.receive()
            assert (delivery.message, delivery.arrived_s) == (Start(0), arrived_s)
            assert a.account()["held"] == b.account()["held"] == 1

    run(main, uvloop=uvloop)


def test_bytes_go_into_place_while_their_doorbells_wait() -> None:
    async def main() -> None:
        a, b = delayed(LONG_S)
        async with a, b, anyio.create_task_group() as tasks:

            async def write(number: int) -> None:
                await a.write("b", [block(number)], deadline_s=9)

            for number in range(BLOCKS):
                tasks.start_soon(write, number)
            source, target = a.regions.pool("src").array, b.regions.pool("dst").array
            await until(lambda: np.array_equal(source, target))
            # All of them crossed the link in less than one delay: nobody waited for an earlier one.
            assert b.account()["held"] == BLOCKS
            assert b.account()["undelivered"] == a.account()["acks"] == 0
            assert await numbers(b, BLOCKS) == list(range(BLOCKS))

    run(main)


def test_messages_and_doorbells_of_a_class_stay_in_order_and_control_overtakes_them() -> None:
    async def main() -> None:
        a, b = delayed(0.2)
        async with a, b, anyio.create_task_group() as tasks:
            begin_s = a._clock.now_s()
            for number in range(20):
                a.post("b", Start(number), TrafficClass.MODEL)
            await until(lambda: b.account()["held"] == 20)
            a.post("b", Start(99))
            first = await b.receive()
            assert first.message == Start(99)
            arrivals = [await b.receive() for _ in range(20)]
            assert [d.message for d in arrivals] == [Start(number) for number in range(20)]
            times = [d.arrived_s for d in arrivals]
            assert times == sorted(times) and times[0] >= begin_s + 0.2
            write = block(0)
            for number in range(100, 110):  # and behind a write of the same class
                if number == 105:
                    tasks.start_soon(lambda: a.write("b", [write], deadline_s=5))
                    await until(lambda: a.account()["writes"] == 1)
                a.post("b", Start(number), TrafficClass.KV)
            wanted = [100, 101, 102, 103, 104, 0, 105, 106, 107, 108, 109]
            assert await numbers(b, 11) == wanted

    run(main)


@pytest.mark.parametrize("uvloop", [True, False])
def test_who_leaves_first_is_still_acknowledged_what_it_wrote(uvloop: bool) -> None:
    async def main() -> None:
        a, b = delayed(0.3)
        async with b:
            async with a, anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: a.write("b", [block(3)], deadline_s=5))
                await until(lambda: b.account()["held"] == 1)
                assert b.account()["undelivered"] == 0
                await a.close()
                assert a.account()["acks"] == 1
            assert await numbers(b, 1) == [3]
            assert b.account()["undelivered"] == 0  # its goodbye was one: no error follows

    run(main, uvloop=uvloop)


def test_a_death_is_heard_of_behind_what_arrived_before_it() -> None:
    async def main() -> None:
        a, b = delayed(0.3)
        async with b, a:
            with anyio.move_on_after(5) as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(lambda: a.write("b", [block(3)], deadline_s=5))
                    await until(lambda: b.account()["held"] == 1)
                    a.abort()
                    scope.cancel()
            assert await numbers(b, 1) == [3]
            with pytest.raises(TransferError, match="a -> b"):
                await b.receive()

    run(main)


def test_a_write_whose_peer_dies_before_it_is_due_fails() -> None:
    async def main() -> None:
        a, b = delayed(0.3)
        failed: list[str] = []

        async def write() -> None:
            with pytest.raises(TransferError, match="without a goodbye") as caught:
                await a.write("b", [block(3)], deadline_s=9)
            failed.append(str(caught.value))

        async with a, anyio.create_task_group() as tasks:
            await b.start()
            tasks.start_soon(write)
            await until(lambda: b.account()["held"] == 1)
            b.abort()
            await until(lambda: len(failed) == 1)
            with pytest.raises(TransferError, match="a -> b"):
                await a.receive()
            assert a.account()["acks"] == 0

    run(main)


def test_a_write_given_up_on_its_way_back_cuts_nothing() -> None:
    async def main() -> None:
        a, b = delayed(0.0)
        a._config = msgspec.structs.replace(a._config, delays_s={"b": LONG_S})
        async with a, b:
            with pytest.raises(DeadlineExceeded):
                await a.write("b", [block(0)], deadline_s=0.3)
            assert a.account()["acks"] == 1  # here, but not due
            await a.write("b", [block(1)], deadline_s=9)
            assert await numbers(b, 2) == [0, 1]
            assert a.account()["connections"] == 1

    run(main)


def test_a_write_given_up_on_its_way_there_cuts_its_connection() -> None:
    async def main() -> None:
        a, b = delayed(0.3)
        async with a, b:
            with pytest.raises(DeadlineExceeded):
                await a.write("b", [block(0)], deadline_s=0.1)
            assert await numbers(b, 1) == [0]  # it was in place when it was given up
            with pytest.raises(TransferError, match="a -> b"):
                await b.receive()

    run(main)

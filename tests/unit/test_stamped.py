"""Class MODEL on real sockets: what the network took is told apart from what processes took."""

import time

import anyio
import pytest
from tcp_hosts import pair, run

from engines.collective import PIECE_BYTES
from engines.errors import TransferError
from engines.messages import Barrier
from engines.real.stamped import StampedConnection, StampedTransport
from engines.seams.transport import TrafficClass

BLOCKED_S = 0.2
MODEL = TrafficClass.MODEL


@pytest.mark.parametrize("uvloop", [True, False])
def test_a_receiver_that_looks_late_is_not_the_network(uvloop: bool) -> None:
    async def main() -> None:
        a, b = pair()
        async with a, b:
            a.post("b", Barrier(0, 0, 0.0, b"x"), MODEL)
            await b.receive()  # the connection is there
            for layer in (1, 2):
                a.post("b", Barrier(0, layer, 0.0, bytes(100)), MODEL)
            time.sleep(BLOCKED_S)  # nobody here looks, and the kernel has both
            found = [await b.receive(), await b.receive()]
            assert [delivery.message.layer for delivery in found] == [1, 2]  # type: ignore[union-attr]
            took_s = [delivery.network_s for delivery in found]
            assert max(took_s) < BLOCKED_S / 2 and min(took_s) > 0, took_s

    run(main, uvloop=uvloop)


def test_frames_that_the_kernel_joined_were_no_longer_under_way_than_the_last() -> None:
    async def main() -> None:
        a, b = pair()
        async with a, b:
            a.post("b", Barrier(0, 0, 0.0, b""), MODEL)
            await b.receive()
            a.post("b", Barrier(0, 1, 0.0, b""), MODEL)
            time.sleep(BLOCKED_S)  # the peer is ahead of us by so much
            a.post("b", Barrier(0, 2, 0.0, b""), MODEL)
            found = [await b.receive(), await b.receive()]
            assert all(delivery.network_s < BLOCKED_S / 2 for delivery in found)

    run(main)


@pytest.mark.parametrize("uvloop", [True, False])
def test_what_the_kernel_does_not_take_at_once_is_sent_in_order_and_counts_as_network(
    uvloop: bool,
) -> None:
    count = 12

    async def main() -> None:
        a, b = pair(time_scale=2.0)
        async with a, b:
            a.post("b", Barrier(0, 0, 0.0, b""), MODEL)
            await b.receive()
            link = a._links["b", MODEL]
            assert isinstance(link.connection, StampedConnection)
            assert isinstance(link.connection._transport, StampedTransport)
            for layer in range(count):
                a.post("b", Barrier(0, layer, 0.0, bytes(PIECE_BYTES)), MODEL)
            assert link.connection.stalled
            began_s = time.monotonic()
            found = [await b.receive() for _ in range(count)]
            took_s = time.monotonic() - began_s
            assert [delivery.message.layer for delivery in found] == list(range(count))  # type: ignore[union-attr]
            assert 0 < found[-1].network_s < (took_s + BLOCKED_S) / 2  # in target seconds

    run(main, uvloop=uvloop)


def test_a_host_that_dies_is_noticed_on_this_class_too() -> None:
    async def main() -> None:
        a, b = pair()
        async with b:
            await a.start()
            a.post("b", Barrier(0, 0, 0.0, b""), MODEL)
            await b.receive()
            a.abort()
            with anyio.fail_after(5):
                with pytest.raises(Exception, match="without a goodbye"):
                    await b.receive()

    run(main)


@pytest.mark.parametrize("uvloop", [True, False])
def test_what_nobody_takes_ends_the_connection_and_surfaces(uvloop: bool) -> None:
    async def main() -> None:
        a, b = pair(inbox_limit=2)
        async with a, b:
            for layer in range(3):
                a.post("b", Barrier(0, layer, 0.0, b""), MODEL)
            with anyio.fail_after(5):
                while b.account()["undelivered"] < 3:
                    await anyio.sleep(0.001)
            for layer in range(2):
                assert (await b.receive()).message.layer == layer  # type: ignore[union-attr]
            with pytest.raises(TransferError, match="2 messages wait on b"):
                await b.receive()

    run(main, uvloop=uvloop)

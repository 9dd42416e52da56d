"""The TCP transport over loopback: bytes, order, classes, and what it refuses."""

import contextlib
import functools
import os
import socket

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tcp_hosts import EPOCH, FOUR_ROWS, HELLO, ONE_ROW, RUN, dial, filled, frame, pair, run

from engines.errors import DeadlineExceeded, KvDigestMismatch, TransferError
from engines.kv import Span
from engines.layout import KvLayout
from engines.messages import Barrier, Drain, LayerDone, Start, Submit
from engines.real import frames
from engines.real.frames import CLASSES, Kind
from engines.real.pool import KvPool
from engines.real.routes import route
from engines.real.tcp import TcpConfig, TcpTransport
from engines.seams.transport import DSCP, Delivery, TrafficClass, Write
from scheduler.types import Request

LINGER = socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"


def rows_of(pool: KvPool, span: Span) -> NDArray[np.float32]:
    """A span's values `[rows, layers, width]`, found row by row."""
    layout = pool.layout
    per = layout.rows_per_block
    start = span.slot // layout.block_tokens
    found = [
        pool.array[start + row // per, span.layer_first : span.layer_last, row % per]
        for row in range(layout.rows(span.first), layout.rows(span.last))
    ]
    return np.stack(found)


SPANS = [
    # layout, source, target: whole blocks, one layer, a shifted target, parts of blocks
    (ONE_ROW, Span("src", 0, 0, 40 * 64, 0, 4), Span("dst", 128, 0, 40 * 64, 0, 4)),
    (ONE_ROW, Span("src", 64, 64, 900, 2, 3), Span("dst", 0, 128, 964, 1, 2)),
    (ONE_ROW, Span("src", 0, 0, 640, 0, 1), Span("dst", 0, 0, 640, 3, 4)),
    (FOUR_ROWS, Span("src", 0, 0, 10 * 64, 0, 3), Span("dst", 64, 0, 10 * 64, 0, 3)),
    (FOUR_ROWS, Span("src", 0, 0, 128, 0, 3), Span("dst", 64, 16, 144, 0, 3)),
    (FOUR_ROWS, Span("src", 0, 16, 144, 0, 3), Span("dst", 64, 64, 192, 0, 3)),
    (FOUR_ROWS, Span("src", 0, 48, 200, 1, 3), Span("dst", 0, 0, 152, 0, 2)),
]


@pytest.mark.parametrize(("layout", "source", "target"), SPANS)
@pytest.mark.parametrize("uvloop", [True, False])
def test_a_write_moves_exactly_its_span(
    layout: KvLayout, source: Span, target: Span, uvloop: bool
) -> None:
    src, dst = filled("src", layout, 64, 1), filled("dst", layout, 64, 2)
    expected = dst.array.copy()

    async def main() -> None:
        a, b = pair()
        async with a, b:
            a.register(src)
            b.register(dst)
            before = b._clock.now_s()
            arrived_s = await a.write("b", [Write(source, target, Start(5), 5)], deadline_s=5)
            delivery = await b.receive()
            assert delivery == Delivery("a", Start(5), arrived_s)
            assert before <= arrived_s <= a._clock.now_s()

    run(main, uvloop=uvloop)
    assert np.array_equal(rows_of(dst, target), rows_of(src, source))
    shadow = KvPool("dst", layout, 64 * layout.block_tokens)
    shadow.array[:] = expected
    values = rows_of(src, source).reshape(-1).tobytes()
    shadow.scatter(target, values)
    assert np.array_equal(dst.array, shadow.array)  # and nothing beside it


def test_a_write_of_no_rows_still_rings() -> None:
    async def main() -> None:
        a, b = pair()
        async with a, b:
            a.register(filled("src", ONE_ROW, 2, 1))
            b.register(filled("dst", ONE_ROW, 2, 1))
            nothing = Span("src", 0, 70, 90, 0, 1)
            into = msgspec.structs.replace(nothing, region="dst")
            await a.write("b", [Write(nothing, into, LayerDone(1, 0, 20), 1)], deadline_s=5)
            assert (await b.receive()).message == LayerDone(1, 0, 20)

    run(main)


def test_concurrent_writes_of_all_layers_land_in_place_and_are_all_acknowledged() -> None:
    src, dst = filled("src", ONE_ROW, 300, 1), filled("dst", ONE_ROW, 300, 2)

    async def main() -> None:
        a, b = pair()
        async with a, b, anyio.create_task_group() as tasks:
            a.register(src)
            b.register(dst)
            for slot in range(0, 300 * 64, 20 * 64):
                for layer in range(4):
                    span = Span("src", slot, 0, 20 * 64, layer, layer + 1)
                    into = msgspec.structs.replace(span, region="dst")
                    write = Write(span, into, LayerDone(slot, layer, 1280), slot)
                    tasks.start_soon(functools.partial(a.write, "b", [write], deadline_s=10))
            rung = [(await b.receive()).message for _ in range(60)]
        assert {(m.request, m.layer) for m in rung if isinstance(m, LayerDone)} == {
            (slot, layer) for slot in range(0, 300 * 64, 1280) for layer in range(4)
        }
        account = a.account()
        assert (account["writes"], account["acks"], account["connections"]) == (60, 60, 1)
        assert account["payload_bytes"] == dst.array.nbytes
        assert account["bytes_sent_kv"] > account["payload_bytes"]

    run(main)
    assert np.array_equal(src.array, dst.array)


def test_messages_of_one_class_keep_their_order_even_while_the_peer_starts() -> None:
    async def main() -> None:
        a, b = pair()
        async with a:
            for number in range(50):
                a.post("b", Start(number))
            await anyio.sleep(0.1)  # long enough for refused attempts
            async with b:
                for number in range(50):
                    assert (await b.receive()).message == Start(number)

    run(main)


def test_a_list_of_writes_goes_out_whole_and_each_rings_when_it_is_in_place() -> None:
    src, dst = filled("src", ONE_ROW, 60, 1), filled("dst", ONE_ROW, 60, 2)

    async def main() -> None:
        a, b = pair()
        async with a, b:
            a.register(src)
            b.register(dst)
            spans = [Span("src", 20 * 64 * n, 0, 20 * 64, 0, 4) for n in range(3)]
            writes = [
                Write(span, msgspec.structs.replace(span, region="dst"), Start(n), n)
                for n, span in enumerate(spans)
            ]
            arrived_s = await a.write("b", writes, deadline_s=5)
            rung = [await b.receive() for _ in writes]
            assert [delivery.message for delivery in rung] == [Start(0), Start(1), Start(2)]
            assert arrived_s == max(delivery.arrived_s for delivery in rung)
            assert a.account()["writes"] == a.account()["acks"] == 3

    run(main)
    assert np.array_equal(src.array, dst.array)


def test_what_was_posted_before_a_close_still_arrives() -> None:
    async def main() -> None:
        a, b = pair()
        async with b:
            async with a:
                for number in range(20):
                    a.post("b", Start(number))  # there is no connection yet
            assert [(await b.receive()).message for _ in range(20)] == [
                Start(number) for number in range(20)
            ]

    run(main)


def test_a_message_larger_than_the_scratch_arrives_whole() -> None:
    turn = Submit(Request(9, 1, 0, 64, 0, 1, (), 4), os.urandom(300_000))

    async def main() -> None:
        a, b = pair()
        async with a, b:
            for message in (Start(1), turn, Start(2)):
                a.post("b", message)
            assert [(await b.receive()).message for _ in range(3)] == [Start(1), turn, Start(2)]
            assert frames.request_of(turn) == 9
            with pytest.raises(TransferError, match="over the limit"):
                a.post("b", msgspec.structs.replace(turn, content=bytes(5 << 20)))

    run(main)


def test_each_class_has_its_connection_marked_in_both_directions() -> None:
    async def main() -> None:
        a, b = pair()
        async with a, b:
            for traffic_class in CLASSES:
                a.post("b", Barrier(1, 0, 0.0, b"x" * 100), traffic_class)
                await b.receive()
            marks = {}
            for (_, traffic_class), link in a._links.items():
                assert link.connection is not None
                sock = link.connection._transport.get_extra_info("socket")
                marks[traffic_class] = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)
            accepted = {
                c._class: c._transport.get_extra_info("socket").getsockopt(
                    socket.IPPROTO_IP, socket.IP_TOS
                )
                for c in b._accepted
            }
        assert marks == accepted == {c: DSCP[c] << 2 for c in CLASSES}

    run(main)


def test_control_takes_management_and_data_the_network_that_both_have() -> None:
    directory = {
        "store": {"mgmt": "m1", "storage": "s1"},
        "buffer": {"mgmt": "m2", "storage": "s2", "compute": "c2"},
        "gpu": {"mgmt": "m3", "compute": "c3"},
    }
    buffer = TcpConfig("buffer", RUN, EPOCH, directory)
    assert route(buffer, "store", TrafficClass.KV) == ("s2", ("s1", 9411))
    assert route(buffer, "gpu", TrafficClass.KV) == ("c2", ("c3", 9411))
    assert route(buffer, "gpu", TrafficClass.CTRL) == ("m2", ("m3", 9412))
    with pytest.raises(TransferError, match="share no network"):
        route(msgspec.structs.replace(buffer, host="gpu"), "store", TrafficClass.MODEL)


def test_a_probe_that_never_speaks_is_no_loss() -> None:
    async def main() -> None:
        a, b = pair()
        async with a, b:
            await (await dial(a, b"")).aclose()
            b.post("a", Start(1))
            assert (await a.receive()).message == Start(1)

    run(main)


def silent_peer(a: TcpTransport) -> socket.socket:
    """A listener in place of host "b" that never acknowledges."""
    listener = socket.create_server(("127.0.0.4", a._config.port_base + 1))
    listener.setblocking(False)
    return listener


def accept(listener: socket.socket) -> socket.socket:
    listener.setblocking(True)
    return listener.accept()[0]


def drain(sock: socket.socket) -> int:
    """Read to the end, orderly or not; how many bytes came."""
    got = 0
    with sock, contextlib.suppress(ConnectionResetError):
        sock.settimeout(5)
        while chunk := sock.recv(1 << 20):
            got += len(chunk)
    return got


def test_a_write_without_acknowledgement_ends_by_its_deadline_and_leaves_the_host_no_more() -> None:
    pool = filled("src", ONE_ROW, 25_600, 1)  # 32 MB: more than the kernel's buffers take
    span = Span("src", 0, 0, 25_600 * 64, 0, 4)

    async def main() -> None:
        a, _ = pair()
        async with a:
            a.register(pool)
            with silent_peer(a) as listener:
                with pytest.raises(DeadlineExceeded, match="a's write"):
                    await a.write("b", [Write(span, span, Drain(), 1)], deadline_s=0.2)
                assert a.account()["writes"] == 1 and a.account()["acks"] == 0
                accepted = await anyio.to_thread.run_sync(accept, listener)
                assert await anyio.to_thread.run_sync(drain, accepted) < pool.array.nbytes

    run(main)


def test_a_lost_peer_fails_pending_writes_and_surfaces() -> None:
    async def main() -> None:
        a, _ = pair()
        async with a:
            a.register(filled("src", ONE_ROW, 4, 1))
            with silent_peer(a) as listener:
                async with anyio.create_task_group() as tasks:

                    async def die() -> None:
                        accepted = await anyio.to_thread.run_sync(accept, listener)
                        # The greeting is shorter than this: the write is under way.
                        await anyio.to_thread.run_sync(accepted.recv, 1024, socket.MSG_WAITALL)
                        accepted.setsockopt(socket.SOL_SOCKET, *LINGER)
                        accepted.close()

                    tasks.start_soon(die)
                    span = Span("src", 0, 0, 256, 0, 4)
                    with pytest.raises(TransferError, match="without a goodbye"):
                        await a.write("b", [Write(span, span, Drain(), 1)], deadline_s=5)
                with pytest.raises(TransferError, match="a -> b"):
                    await a.receive()

    run(main)


def test_a_peer_that_never_listens_is_named_by_the_deadline() -> None:
    async def main() -> None:
        a, _ = pair(deadline_s=0.15)
        async with a:
            a.post("b", Start(1))
            with pytest.raises(TransferError, match="a waiting for b"):
                await a.receive()

    run(main)


def test_close_flushes_and_a_goodbye_is_no_error() -> None:
    async def main() -> None:
        a, b = pair()
        async with b:
            async with a:
                b.post("a", Start(0))
                await a.receive()
                for number in range(200):
                    a.post("b", Start(number))
            for number in range(200):
                assert (await b.receive()).message == Start(number)
            b.post("a", Start(1))
            assert b.account()["undeliverable"] == 1
            with anyio.move_on_after(0.05) as scope:
                await b.receive()
            assert scope.cancelled_caught  # nothing surfaced
            assert not b._accepted and all(link.connection is None for link in b._links.values())

    run(main)


def test_two_hosts_that_close_at_once_part_in_peace() -> None:
    async def main() -> None:
        a, b = pair()
        await a.start()
        await b.start()
        for one, other in ((a, b), (b, a)):
            for traffic_class in CLASSES:
                one.post(other.host, Start(1), traffic_class)
                await other.receive()
        with anyio.fail_after(1.5):  # well within the close deadline, after which it is force
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(a.close)
                tasks.start_soon(b.close)
        assert a.account()["undelivered"] == b.account()["undelivered"] == 0
        with pytest.raises(TransferError, match="closed"):
            a.post("b", Start(2))

    run(main)


def test_a_host_that_ends_by_an_exception_does_not_say_goodbye() -> None:
    async def main() -> None:
        a, b = pair()
        async with b:
            with contextlib.suppress(ZeroDivisionError):
                async with a:
                    a.post("b", Start(1))
                    await b.receive()
                    raise ZeroDivisionError
            with pytest.raises(TransferError, match=r"a -> b .* without a goodbye"):
                await b.receive()

    run(main)


def test_after_quiesce_a_lost_connection_is_no_error() -> None:
    async def main() -> None:
        a, _ = pair()
        async with a:
            stream = await dial(a, HELLO + frame(Kind.MESSAGE, frames.encode(Drain()), sequence=2))
            assert (await a.receive()).message == Drain()
            a.quiesce()
            await stream.aclose()
            with anyio.move_on_after(0.05) as scope:
                await a.receive()
            assert scope.cancelled_caught

    run(main)


def test_an_inbox_that_nobody_empties_refuses() -> None:
    starts = [frame(Kind.MESSAGE, frames.encode(Start(n)), sequence=n + 2) for n in range(12)]

    async def main() -> None:
        a, _ = pair(inbox_limit=10)
        async with a:
            stream = await dial(a, HELLO + b"".join(starts))
            with pytest.raises(anyio.EndOfStream):  # refused, and hung up, with nobody receiving
                await stream.receive()
            await stream.aclose()
            for number in range(10):
                assert (await a.receive()).message == Start(number)
            with pytest.raises(TransferError, match="10 messages wait on a"):
                await a.receive()

    run(main)


def test_a_seal_binds_bytes_and_place() -> None:
    a, _ = pair()
    pool = filled("hbm", ONE_ROW, 16, 1)
    a.register(pool)
    span = Span("hbm", 128, 0, 8 * 64, 0, 4)
    digests = a.seal(span, b"", 4)
    assert len(digests) == 8 * 8
    a.check(span, b"", 4, digests)
    assert a.seal(span.tokens(128, 512), b"", 6) == digests[16:]
    with pytest.raises(KvDigestMismatch, match=r"block 5 .*'hbm'"):
        a.check(span, b"", 5, digests[8:] + digests[:8])
    pool.array[[3, 5]] = pool.array[[5, 3]]
    with pytest.raises(KvDigestMismatch, match="block 5 of"):
        a.check(span, b"", 4, digests)
    pool.array[[3, 5]] = pool.array[[5, 3]]
    pool.array.view(np.uint8)[9, 0, 0, 0] ^= 1
    with pytest.raises(KvDigestMismatch, match="block 11 of"):
        a.check(span, b"", 4, digests)
    unverified, _ = pair(verify=False)
    unverified.register(pool)
    unverified.check(span, b"", 4, digests)


def test_a_copy_within_a_host_moves_whole_blocks_and_refuses_others() -> None:
    a, _ = pair()
    dram, cache = filled("dram", ONE_ROW, 16, 1), filled("cache", ONE_ROW, 8, 2)
    a.register(dram)
    a.register(cache)
    before = cache.array.copy()
    a.copy(Span("dram", 128, 64, 4 * 64, 0, 4), Span("cache", 0, 2 * 64, 5 * 64, 0, 4))
    assert (cache.array[2:5] == dram.array[3:6]).all()
    assert (cache.array[:2] == before[:2]).all() and (cache.array[5:] == before[5:]).all()
    with pytest.raises(TransferError, match="same number of whole Full Blocks"):
        a.copy(Span("dram", 0, 0, 128, 0, 4), Span("cache", 0, 0, 64, 0, 4))
    with pytest.raises(TransferError, match="same number of whole Full Blocks"):
        a.copy(Span("dram", 0, 0, 64, 0, 2), Span("cache", 0, 0, 64, 0, 2))

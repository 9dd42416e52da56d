"""The modelled sides of transport, store and compute: order, times, sizes, and refusals."""

import anyio
import pytest
from fakes import EXCHANGE, running_loop

from engines.config import GroupConfig
from engines.errors import KvMissing, TransferError
from engines.kv import Extent, Span
from engines.layout import KvLayout
from engines.messages import Barrier, Drain, Message, Start, TurnFailed
from engines.modelled.clock import VirtualClock
from engines.modelled.compute import PacedCompute, next_content
from engines.modelled.content import PatternAuthor
from engines.modelled.fluid import Arrived, Channel, FluidNetwork
from engines.modelled.loop import run_virtual
from engines.modelled.store import ExtentStore
from engines.modelled.transport import NOTE_BYTES, FluidTransport, Wires
from engines.real import frames
from engines.seams.compute import DecodeJob, PrefillJob
from engines.seams.transport import Delivery, TrafficClass, Transport, Write

LATENCY_S = 0.01
RATE = 400.0
LAYOUT = KvLayout(token_scale=1, block_tokens=4, layers=2, width=1)


def wires(*hosts: str, qos: bool = True) -> dict[str, FluidTransport]:
    """Hosts on one link of 400 bytes/s; a token and layer weighs four bytes."""
    network = FluidNetwork(running_loop(), {"link": RATE}, qos)

    def route(sender: str, peer: str) -> tuple[str, ...]:
        return ("link",)

    whole = Wires(network, route, LAYOUT, LATENCY_S)
    return {host: FluidTransport(host, whole) for host in hosts}


def write(tokens: int, request: int, source_tokens: int | None = None) -> Write:
    source = Span("dram", 0, 0, tokens if source_tokens is None else source_tokens, 0, 2)
    return Write(source, Span("hbm", 0, 0, tokens, 0, 2), Start(request), request)


async def arrivals(transport: Transport, count: int) -> list[tuple[Message, float]]:
    found: list[Delivery] = []
    async with anyio.create_task_group() as tasks:

        def take(delivery: Delivery) -> None:
            found.append(delivery)
            if len(found) == count:
                tasks.cancel_scope.cancel()

        tasks.start_soon(transport.serve, take)
    return [(delivery.message, delivery.arrived_s) for delivery in found]


def test_a_write_arrives_when_its_last_byte_does_and_says_so() -> None:
    async def main() -> tuple[float, list[tuple[Message, float]]]:
        hosts = wires("a", "b")
        arrived_s = await hosts["a"].write("b", [write(50, 1)], deadline_s=9)
        return arrived_s, await arrivals(hosts["b"], 1)

    arrived_s, found = run_virtual(main)
    assert arrived_s == pytest.approx(1.0)
    assert found == [(Start(1), arrived_s)]


def test_writes_to_one_peer_stay_in_order_even_empty_ones() -> None:
    async def main() -> list[tuple[Message, float]]:
        hosts = wires("a", "b")
        async with anyio.create_task_group() as tasks:
            for request, tokens in enumerate((50, 0, 100)):
                one = write(tokens, request)
                tasks.start_soon(lambda one=one: hosts["a"].write("b", [one], deadline_s=9))
        return await arrivals(hosts["b"], 3)

    found = run_virtual(main)
    assert [(m.request, pytest.approx(at)) for m, at in found] == [(0, 1), (1, 1), (2, 3)]  # type: ignore[union-attr]


def test_a_list_of_writes_is_one_flow_and_rings_every_bell_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flows: list[float] = []
    send = FluidNetwork.send

    def counted(
        network: FluidNetwork, channel: Channel, size_bytes: float, arrived: Arrived
    ) -> None:
        flows.append(size_bytes)
        send(network, channel, size_bytes, arrived)

    monkeypatch.setattr(FluidNetwork, "send", counted)

    async def main() -> tuple[float, list[tuple[Message, float]]]:
        hosts = wires("a", "b")
        some = [write(50, 1), write(0, 2), write(100, 3)]
        arrived_s = await hosts["a"].write("b", some, deadline_s=9)
        return arrived_s, await arrivals(hosts["b"], 3)

    arrived_s, found = run_virtual(main)
    assert arrived_s == pytest.approx(3.0) and flows == [3.0 * RATE]
    assert [(m.request, at) for m, at in found] == [(n, arrived_s) for n in (1, 2, 3)]  # type: ignore[union-attr]


def test_an_error_in_a_handler_is_the_host_that_serves() -> None:
    async def main() -> None:
        hosts = wires("a", "b")

        def refuse(delivery: Delivery) -> None:
            raise TransferError(f"not {delivery.sender}")

        hosts["a"].post("b", Drain())
        with pytest.raises(TransferError, match="not a"):
            await hosts["b"].serve(refuse)

    run_virtual(main)


def test_messages_take_their_latency_and_stay_in_order() -> None:
    async def main() -> list[tuple[Message, float]]:
        hosts = wires("a", "b", "c")
        for sender, request in (("a", 1), ("c", 2), ("a", 3)):
            hosts[sender].post("b", TurnFailed(request, "why"))
        await anyio.sleep(0.005)
        hosts["a"].post("b", Drain())
        return await arrivals(hosts["b"], 4)

    found = run_virtual(main)
    assert [m.request for m, _ in found[:3]] == [1, 2, 3]  # type: ignore[union-attr]
    assert [at for _, at in found] == pytest.approx([0.01, 0.01, 0.01, 0.015])


def test_a_barrier_passes_before_kv_and_weighs_its_load() -> None:
    async def main() -> tuple[float, float]:
        hosts = wires("a", "b")
        clock = VirtualClock(running_loop())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: hosts["a"].write("b", [write(100, 1)], deadline_s=9))
            await clock.sleep_until_s(1.0)
            barrier = Barrier(0, 0, 0.0, bytes(396 - NOTE_BYTES))
            hosts["a"].post("b", barrier, TrafficClass.MODEL)
            (_, first_s), (_, second_s) = await arrivals(hosts["b"], 2)
        return first_s, second_s

    assert run_virtual(main) == pytest.approx((2.0, 2.99))


def test_without_classes_a_barrier_waits_for_the_queue_that_kv_fills() -> None:
    async def main() -> tuple[float, float, float]:
        hosts = wires("a", "b", qos=False)
        found: list[Delivery] = []
        barrier = Barrier(0, 0, 0.0, bytes(8 - NOTE_BYTES % 8))
        async with anyio.create_task_group() as tasks:

            def take(delivery: Delivery) -> None:
                if isinstance(delivery.message, Barrier):
                    found.append(delivery)
                    if len(found) == 2:
                        tasks.cancel_scope.cancel()

            tasks.start_soon(hosts["b"].serve, take)
            hosts["a"].post("b", barrier, TrafficClass.MODEL)
            await anyio.sleep(10)
            tasks.start_soon(lambda: hosts["a"].write("b", [write(10**5, 1)], deadline_s=1e9))
            await anyio.sleep(1)
            hosts["a"].post("b", barrier, TrafficClass.MODEL)
        size = NOTE_BYTES + len(barrier.load)
        return found[0].network_s, found[1].network_s, size / RATE

    idle_s, behind_s, alone_s = run_virtual(main)
    assert idle_s == pytest.approx(alone_s)
    queue_s = 256 * 1024 / RATE  # on this slow link more than 10 ms
    assert behind_s == pytest.approx(queue_s + 2 * alone_s)


def test_what_surrounds_a_payload_is_counted_and_takes_no_time() -> None:
    async def main() -> tuple[float, int]:
        hosts = wires("a", "b")
        arrived_s = await hosts["a"].write("b", [write(50, 1)], deadline_s=9)
        link = hosts["a"]._wires._network.links["link"]
        return arrived_s, link.frame_bytes

    arrived_s, framed = run_virtual(main)
    assert arrived_s == pytest.approx(1.0)
    real = frames.HEADER_BYTES + len(frames.encode(frames.Doorbell(Start(1), write(50, 1).target)))
    acknowledgement = frames.HEADER_BYTES + len(frames.encode_arrival(1.0))
    assert framed == real + acknowledgement


def test_unknown_peers_and_unlike_spans_are_refused() -> None:
    async def main() -> None:
        hosts = wires("a", "b")
        with pytest.raises(TransferError, match="no host 'x'"):
            hosts["a"].post("x", Drain())
        with pytest.raises(TransferError, match="same tokens"):
            await hosts["a"].write("b", [write(10, 1, source_tokens=11)], deadline_s=1)

    run_virtual(main)


def test_a_write_that_is_given_up_rings_no_bell_that_hurts() -> None:
    async def main() -> list[tuple[Message, float]]:
        hosts = wires("a", "b")
        with anyio.move_on_after(0.5):
            await hosts["a"].write("b", [write(50, 1)], deadline_s=9)
        await hosts["a"].write("b", [write(50, 2)], deadline_s=9)
        return await arrivals(hosts["b"], 2)

    assert [at for _, at in run_virtual(main)] == pytest.approx([1.0, 2.0])


def test_the_store_knows_what_it_holds() -> None:
    into = Span("stage", 0, 0, 0, 0, 2)

    async def main() -> None:
        store = ExtentStore()
        store.hold(1, 0, 4)
        await store.append(Extent(1, 6, 2), into, b"")
        await store.append(Extent(1, 4, 2), into, b"")
        await store.append(Extent(2, 3, 1), into, b"")
        assert await store.read([Extent(1, 1, 7), Extent(2, 3, 1)], into) == b""
        for missing, words in ((Extent(1, 7, 2), "block 8 of chain 1"),
                               (Extent(2, 2, 2), "block 2 of chain 2"),
                               (Extent(3, 0, 1), "block 0 of chain 3")):  # fmt: skip
            with pytest.raises(KvMissing, match=words):
                await store.read([missing], into)

    run_virtual(main)


def test_compute_takes_its_time_and_gives_the_tokens_of_the_reference() -> None:
    async def main() -> tuple[dict[int, bytes], dict[int, bytes], list[bytes], float]:
        clock = VirtualClock(running_loop())
        compute = PacedCompute(2, 64, clock)
        slot = Span("hbm", 0, 0, 640, 0, 2)
        jobs = [
            PrefillJob(1, slot, b"content!", 0, 256, True),
            PrefillJob(2, slot, b"content!", 0, 128, False),
        ]
        first = await compute.prefill(jobs, 0, 1.5)
        last = await compute.prefill(jobs, 1, 3.0)
        decoded = await compute.decode([DecodeJob(1, slot, last[1], 256)], 3.0)
        return first, last, decoded, clock.now_s()

    first, last, decoded, at_s = run_virtual(main)
    assert first == {} and list(last) == [1]
    assert last[1] == next_content(b"t!", 4)
    assert decoded == [next_content(last[1], 5)] and decoded != [last[1]]
    assert at_s == 3.0


def test_content_has_the_emulated_worlds_lengths_and_prefixes() -> None:
    author = PatternAuthor(3, 64)
    opening = author.opening(1, 640)
    assert len(opening) == 20
    assert author.opening(1, 128) == opening[:4]
    assert author.opening(2, 640) != opening != PatternAuthor(4, 64).opening(1, 640)
    prompt = author.extend(opening, 700, 5, 0)
    assert prompt == opening  # 60 tokens more are no emulated one
    longer = author.extend(opening, 768, 5, 0)
    assert longer[:20] == opening and len(longer) == 24
    assert author.extend(opening, 768, 5, 1) != longer != author.extend(opening, 768, 6, 0)
    assert author.truncate(longer, 639) == author.extend(longer, 639, 5, 0) == longer[:18]


def test_the_modelled_sides_are_what_the_seams_ask_for() -> None:
    group = GroupConfig("g", "a", ("a",), ("a",), "s", 1.0, 0.0, EXCHANGE)
    transport: Transport = wires(group.leader)["a"]
    span = Span("dram", 0, 0, 4, 0, 2)
    assert transport.seal(span, b"", 0) == bytes(8)
    transport.check(span, b"", 0, b"anything")

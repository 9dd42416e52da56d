"""Addresses and ports for runs on loopback: enough, apart from each other, and free."""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest
from tcp_hosts import ONE_ROW, CountingKeys, filled, run

from engines.errors import TransferError
from engines.kv import Span
from engines.messages import ReadDone
from engines.real.clock import RealClock
from engines.real.tcp import TcpConfig, TcpTransport
from engines.seams.transport import TrafficClass, Write
from testbed.errors import EnvironmentUnfit
from testbed.worlds import reserve as reserving
from testbed.worlds.reserve import FIRST_PORT, PLACE_PORTS, Reservation, reserve
from topologies.shape import ClusterShape, Nic

NICS = list(ClusterShape(2, 3, 2, folded=False, storage_hosts=2).nics())
SEED = 5


def places(found: Reservation) -> list[tuple[str, int]]:
    """Address and port base, one for each NIC."""
    words = [word.split(":") for own in found.directory.values() for word in own.values()]
    return [(address, int(base)) for address, base in words]


def close(found: Reservation) -> None:
    for guard in found.guards:
        guard.close()


@contextmanager
def reserved(nics: list[Nic], seed: int, whole: bool) -> Iterator[Reservation]:
    found = reserve(nics, random.Random(seed), whole)
    try:
        yield found
    finally:
        close(found)


def test_every_nic_has_an_address_of_its_own_that_is_on_no_network() -> None:
    with reserved(NICS, SEED, whole=True) as found:
        assert {h: set(own) for h, own in found.directory.items()} == {
            nic.host: {n.network for n in NICS if n.host == nic.host} for nic in NICS
        }
        addresses = [address for address, _ in places(found)]
        assert len(set(addresses)) == len(NICS)
        assert all(IPv4Address(a) in IPv4Network("127.0.0.0/8") for a in addresses)
        assert "127.0.0.1" not in addresses
        assert len({base for _, base in places(found)}) == 1


def test_without_other_addresses_every_host_has_ports_of_its_own() -> None:
    with reserved(NICS, SEED, whole=False) as found:
        assert {address for address, _ in places(found)} == {"127.0.0.1"}
        bases = {host: {w for w in own.values()} for host, own in found.directory.items()}
        assert all(len(own) == 1 for own in bases.values())
        numbers = {base for _, base in places(found)}
        assert len(numbers) == len(found.directory)
        assert all((base - FIRST_PORT) % PLACE_PORTS == 0 for base in numbers)


@pytest.mark.parametrize("whole", [True, False])
def test_runs_that_draw_the_same_do_not_meet(whole: bool) -> None:
    with reserved(NICS, SEED, whole) as one, reserved(NICS, SEED, whole) as other:
        assert not set(places(one)) & set(places(other))


@pytest.mark.parametrize("whole", [True, False])
def test_a_place_is_free_again_when_its_run_is_over(whole: bool) -> None:
    with reserved(NICS, SEED, whole) as found:
        before = places(found)
    with reserved(NICS, SEED, whole) as found:
        assert places(found) == before


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("number", range(3))
def test_a_place_where_another_program_listens_is_left_alone(whole: bool, number: int) -> None:
    with reserved(NICS, SEED, whole) as found:
        address, base = places(found)[-1]
    with socket.create_server((address, base + number)), reserved(NICS, SEED, whole) as found:
        assert (address, base) not in places(found)


def test_a_machine_without_a_free_place_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserving, "END_PORT", FIRST_PORT + PLACE_PORTS)
    monkeypatch.setattr(reserving, "FIRST_OCTET", 99)
    monkeypatch.setattr(reserving, "LAST_OCTET", 99)
    for whole in (True, False):
        one = NICS[:1]
        with (
            reserved(one, SEED, whole),
            pytest.raises(EnvironmentUnfit, match=r"no free ports .*; end other runs"),
        ):
            reserve(one, random.Random(SEED), whole)


def test_what_is_there_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(reserving, "_has_address", lambda _, there=there: there)
        found = reserve(NICS[:3])
        assert ("127.0.0.1" not in str(found.directory)) is there
        close(found)
    monkeypatch.undo()
    assert reserving._has_address("127.0.0.1")
    assert not reserving._has_address("192.0.2.1")  # set aside for documents (RFC 5737)


@pytest.mark.parametrize("whole", [True, False])
def test_transports_meet_at_their_places_and_both_count_what_moved(whole: bool) -> None:
    async def main(found: Reservation) -> None:
        clock = RealClock(0.0, 1.0)
        ends = [
            TcpTransport(TcpConfig(host, 7, 1, found.directory), clock, CountingKeys())
            for host in ("pe0-buf", "store0")
        ]
        async with ends[0] as buffer, ends[1] as storage:
            buffer.register(filled("dram", ONE_ROW, 8, 1))
            storage.register(filled("disk", ONE_ROW, 8, 2))
            span, target = (
                Span(region, 0, 0, 4 * ONE_ROW.block_tokens, 0, ONE_ROW.layers)
                for region in ("disk", "dram")
            )
            write = Write(span, target, ReadDone(3, target), 3)
            await storage.write("pe0-buf", [write], deadline_s=10.0 + clock.now_s())
            assert (await buffer.receive()).message == ReadDone(3, target)
            size = 4 * ONE_ROW.block_bytes
            assert (
                buffer.regions.pool("dram").array[:4].tobytes()
                == storage.regions.pool("disk").array[:4].tobytes()
            )
            (sent,) = storage.tallies()
            (got,) = buffer.tallies()
            assert (sent.peer, sent.traffic_class) == ("pe0-buf", TrafficClass.KV)
            assert (got.peer, got.traffic_class) == ("store0", TrafficClass.KV)
            assert sent.moved.sent_payload_bytes == got.moved.received_payload_bytes == size
            assert sent.moved.received_payload_bytes == got.moved.sent_payload_bytes == 0
            assert sent.moved.sent_frame_bytes == got.moved.received_frame_bytes > size
            assert 0 < got.moved.sent_frame_bytes == sent.moved.received_frame_bytes < 200

    nics = list(ClusterShape(1, 1).nics())
    with reserved(nics, SEED, whole) as found:
        run(lambda: main(found))


@pytest.mark.parametrize("whole", [True, False])
def test_a_port_that_is_taken_after_the_trial_ends_the_host_loudly(whole: bool) -> None:
    async def main(found: Reservation) -> None:
        clock = RealClock(0.0, 1.0)
        config = TcpConfig("store0", 7, 1, found.directory)
        address, base = found.directory["store0"]["storage"].split(":")
        taken = int(base) + 1
        transport = TcpTransport(config, clock, CountingKeys())
        with (
            socket.create_server((address, taken)),
            pytest.raises(TransferError, match=rf"^store0 cannot listen on {address}:{taken} "),
        ):
            await transport.start()
        transport.abort()

    with reserved(list(ClusterShape(1, 1).nics()), SEED, whole) as found:
        run(lambda: main(found))

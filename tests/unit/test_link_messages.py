"""What a link's change sends to the kernel, where this kernel cannot carry it out."""

import struct
from typing import Any

import pytest

from testbed.errors import EnvironmentUnfit, InputError
from testbed.fabric import delay, netlink
from testbed.fabric.counters import Offsets
from testbed.fabric.links import End, Links, Setting, check_setting
from testbed.fabric.shaping import ClassCounters, shape

LINK_ID = ("pe0", "uplink")
# What tc (iproute2 6.1) sends, but for sequence number and the request for an answer:
# tc qdisc add dev lo root handle 2: netem delay 20ms limit 1000000
ADD_NETEM = (
    "4c000000240001060000000000000000 00000000 01000000 00000200 ffffffff 00000000"
    "0a000100 6e6574656d00 0000 1c000200 b4c40400 40420f00 00000000 00000000 00000000 00000000"
)
# tc qdisc change dev lo root handle 2: netem delay 5ms limit 1000000
CHANGE_NETEM = (
    "4c000000240001000000000000000000 00000000 01000000 00000200 ffffffff 00000000"
    "0a000100 6e6574656d00 0000 1c000200 2d310100 40420f00 00000000 00000000 00000000 00000000"
)
# tc qdisc add dev lo parent 2:1 handle 1: htb default 20
ADD_HTB = (
    "48000000240001060000000000000000 00000000 01000000 00000100 01000200 00000000"
    "08000100 68746200 1c000200 18000200 03000000 0a000000 20000000 00000000 00000000"
)


class Recorder:
    """In place of a request socket: what was sent, and no classes to dump."""

    def __init__(self) -> None:
        self.sent: list[netlink.Request] = []

    def send(self, requests: list[netlink.Request]) -> None:
        self.sent += requests

    def dump_classes(self, _index: int) -> list[memoryview]:
        return []

    def take(self) -> list[tuple[int, int, int]]:
        """Type, handle and parent of each message since the last look."""
        found = [
            (struct.unpack_from("=H", one.data, 4)[0], *struct.unpack_from("=II", one.data, 24))
            for one in self.sent
        ]
        self.sent.clear()
        return found


def test_netem_is_asked_for_in_the_bytes_that_tc_sends() -> None:
    (added,) = delay.delay("lo", 1, 0.02)
    (changed,) = delay.redelay("lo", 1, 0.005)
    below = shape("lo", 1, 1e8, True, None, delay.BEHIND_NETEM)[0]
    assert added.data == bytes.fromhex(ADD_NETEM)
    assert changed.data == bytes.fromhex(CHANGE_NETEM)
    assert below.data == bytes.fromhex(ADD_HTB)


def one_link(bps: float | None) -> tuple[Links, Recorder]:
    links = Links({LINK_ID: Setting(bps)}, True, None)
    recorder: Any = Recorder()
    links.of[LINK_ID].ends = (End(recorder, "pe0-uplink", 5), End(recorder, "pe0-spine", 6))
    return links, recorder


NEW, DELETE = netlink.RTM_NEWQDISC, netlink.RTM_DELQDISC
ROOT = netlink.TC_H_ROOT


def qdiscs(messages: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Those about the two outer queueing disciplines, of one end."""
    outer = [one for one in messages if one[0] in (NEW, DELETE) and one[1] in (0x10000, 0x20000)]
    assert outer[: len(outer) // 2] == outer[len(outer) // 2 :]  # the same at both ends
    return outer[: len(outer) // 2]


def test_the_first_delay_goes_in_front_of_the_shaping_and_stays_there() -> None:
    links, recorder = one_link(1e8)
    link = links.find(LINK_ID)
    links.set(link, Setting(1e8, 0.02))
    assert qdiscs(recorder.take()) == [
        (DELETE, 0x10000, ROOT),
        (NEW, 0x20000, ROOT),
        (NEW, 0x10000, 0x20001),
    ]
    assert link.state().delay_by == "netem"
    links.set(link, Setting(1e8, 0.001))
    assert recorder.take() == 2 * [(NEW, 0x20000, ROOT)]
    links.set(link, Setting(5e7, 0.001))
    assert qdiscs(recorder.take()) == []  # classes alone
    links.set(link, link.nominal)
    assert qdiscs(recorder.take()) == [(NEW, 0x20000, ROOT)]
    assert (link.state().delay_s, link.state().delay_by) == (0.0, "none")


def test_an_unshaped_link_is_delayed_and_then_shaped_behind_the_delay() -> None:
    links, recorder = one_link(None)
    link = links.find(LINK_ID)
    links.set(link, Setting(None, 0.02))
    assert recorder.take() == 2 * [(NEW, 0x20000, ROOT)]
    links.set(link, Setting(1e8, 0.02))
    assert qdiscs(recorder.take()) == [(NEW, 0x10000, 0x20001)]
    links.set(link, Setting(None, 0.02))
    assert recorder.take() == 2 * [(DELETE, 0x10000, 0x20001)]


def test_the_same_setting_again_sends_nothing() -> None:
    links, recorder = one_link(1e8)
    links.set(links.find(LINK_ID), Setting(1e8))
    assert recorder.take() == []


def test_a_delay_needs_netem_and_a_sensible_length() -> None:
    check_setting("pe0:uplink", Setting(1e8, 0.02), netem=True)
    with pytest.raises(EnvironmentUnfit, match="no netem"):
        check_setting("pe0:uplink", Setting(1e8, 0.02), netem=False)
    with pytest.raises(InputError, match="11 s"):
        check_setting("pe0:uplink", Setting(1e8, 11.0), netem=True)


def classes(sent: int, dropped: int = 0, backlog: int = 0) -> dict[str, ClassCounters]:
    return {"1:20": ClassCounters(sent, sent // 100, dropped, backlog)}


def test_counters_of_classes_go_on_when_the_kernels_begin_anew() -> None:
    offsets = Offsets()
    assert offsets.told("port", classes(500, 1, 70)) == classes(500, 1, 70)
    offsets.go_on_from("port", classes(500, 1, 70), raw=None)
    assert offsets.told("port", classes(200, 2, 10)) == classes(700, 3, 10)
    # And again, from what was told by then.
    offsets.go_on_from("port", offsets.told("port", classes(200, 2, 10)), raw=None)
    assert offsets.told("port", classes(100)) == classes(800, 3)
    assert offsets.told("another port", classes(100)) == classes(100)


def test_counters_of_classes_can_leave_out_what_crossed_meanwhile() -> None:
    offsets = Offsets()
    before = offsets.told("port", classes(300, 1))
    offsets.go_on_from("port", before, raw=classes(9_300, 5))
    assert offsets.told("port", classes(9_300, 5)) == before
    assert offsets.told("port", classes(9_400, 6, 40)) == classes(400, 2, 40)

"""A capture beside the shaper's counters, the transport's account and the ledger."""

from pathlib import Path

from capture_packets import CS1, EF, ISN, SYN, Sent, conversation, segment, write_capture

from testbed.capture.agree import differing, since, with_ledger, with_shaper, with_transport
from testbed.capture.summary import Summary, summarise
from testbed.fabric.counters import LinkClasses
from testbed.fabric.shaping import ClassCounters

SAID = conversation()
KV_BYTES = 5120 + 2800


def summary(tmp_path: Path, dscp: int = CS1) -> Summary:
    sent = [segment(ISN, flags=SYN, dscp=dscp)]
    at = ISN + 1
    for said in SAID[:4]:
        sent.append(segment(at, said, dscp=dscp))
        at += len(said)
    sent.append(segment(1, back=True, dscp=dscp))
    ping = Sent(bytes(12) + b"\x08\x00\x45\xc0" + bytes(8) + b"\x01" + bytes(60), True)
    return summarise(write_capture(tmp_path / "a.pcapng", [*sent, ping]))


def counters(number: int, packets: int) -> ClassCounters:
    return ClassCounters(number, packets, 0, 0)


def counted(model: tuple[int, int], kv: tuple[int, int]) -> LinkClasses:
    return LinkClasses(
        sent={"1:10": counters(*model), "1:20": counters(*kv)},
        received={"1:10": counters(0, 0), "1:20": counters(66, 1)},
    )


def on_wire() -> tuple[int, int]:
    """Four frames and a SYN, with a header for each segment of 1448 bytes."""
    segments = 1 + sum(-(-len(said) // 1448) for said in SAID[:4])
    return sum(map(len, SAID[:4])) + 66 * segments, segments


def test_equal_accounts_differ_nowhere(tmp_path: Path) -> None:
    found = summary(tmp_path)
    lines = with_shaper(found, counted((85, 1), on_wire()))  # the ping is CS6
    assert len(lines) == 8
    lines += with_transport(found, {"kv": sum(map(len, SAID[:4])), "model": 0})
    lines += with_ledger(found, {"pe0-buf:snic:tx": KV_BYTES, "pe0-buf:snic:rx": 0, "x:snic:tx": 5})
    assert len(lines) == 12
    assert not differing(lines)


def test_a_difference_is_said_with_interface_class_and_by_how_much(tmp_path: Path) -> None:
    found = summary(tmp_path)
    number, packets = on_wire()
    wrong = differing(with_shaper(found, counted((85, 1), (number + 1514, packets + 1))))
    assert [line.difference for line in wrong] == [-1514, -1]
    assert str(wrong[0]) == (
        f"pe0-buf:snic sent bytes on the wire, class 1:20 of the shaper: the capture has {number}, "
        f"counted are {number + 1514} (-1514)"
    )
    (line,) = differing(with_ledger(found, {"pe0-buf:snic:tx": KV_BYTES - 512}))
    assert line.difference == 512
    (line,) = differing(with_transport(found, {"kv": 0}))
    assert line.captured == sum(map(len, SAID[:4]))


def test_kv_with_the_mark_of_collectives_is_in_their_class(tmp_path: Path) -> None:
    number, packets = on_wire()
    lines = with_shaper(summary(tmp_path, EF), counted((0, 0), (number, packets)))
    sent = {line.what[:5]: line.difference for line in lines if "1:20" in line.what}
    assert sent["bytes"] < 0
    without = LinkClasses(
        sent={"1:20": counters(number + 85, packets + 1)}, received={"1:20": counters(66, 1)}
    )
    assert not differing(with_shaper(summary(tmp_path, EF), without))  # one class holds all


def test_counters_between_two_looks() -> None:
    before, after = counted((10, 1), (100, 2)), counted((15, 2), (600, 4))
    assert since(before, after).sent == {"1:10": counters(5, 1), "1:20": counters(500, 2)}

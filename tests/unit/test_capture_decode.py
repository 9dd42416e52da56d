"""Frames out of segments: cut, reordered, repeated, lost, joined in mid-stream, and not ours."""

import random
from pathlib import Path

import pytest
from capture_packets import ACK, CS0, CS1, EF, ISN, SYN, Sent, conversation, cut, segment
from capture_packets import write_capture as write
from hypothesis import given
from hypothesis import strategies as st

from testbed.capture import streams
from testbed.capture.reading import Wanted, read
from testbed.capture.records import FlowAccount, Frame
from testbed.capture.summary import Summary, summarise

SAID = conversation()
STREAM = b"".join(SAID)
KINDS = ["HELLO", "MESSAGE", "WRITE", "WRITE", "MESSAGE"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("capture") / "a.pcapng"


def seen(path: Path, packets: list[Sent]) -> tuple[Summary, list[Frame]]:
    found: list[Frame] = []
    return summarise(write(path, packets), found.append), found


def pieces(sizes: list[int], dscp: int = CS1) -> list[Sent]:
    return [segment(ISN + 1 + at, data, dscp=dscp) for at, data in cut(STREAM, sizes)]


def only(summary: Summary, payload: bool = True) -> FlowAccount:
    (account,) = [flow for flow in summary.flows if flow.payload_bytes or not payload]
    return account


@given(st.lists(st.integers(1, 3000), max_size=60), st.randoms(use_true_random=False))
def test_frames_do_not_depend_on_how_the_stream_was_cut_reordered_or_repeated(
    path: Path, sizes: list[int], chance: random.Random
) -> None:
    once = pieces(sizes)
    twice = [*once, *chance.sample(once, len(once) // 2)]
    chance.shuffle(twice)
    summary, found = seen(path, [segment(ISN, flags=SYN), *twice])
    assert [frame.kind for frame in found] == KINDS
    assert [frame.bytes for frame in found] == [len(said) for said in SAID]
    account = only(summary)
    assert account.payload_bytes == account.frame_bytes == len(STREAM)
    again = sum(len(sent.data) - 66 for sent in twice) - len(STREAM)
    assert account.retransmitted_bytes == again
    assert account.missing_bytes == account.unparsed_bytes == 0


def test_a_line_has_class_mark_kind_message_request_blocks_layer_tokens_and_bytes(
    path: Path,
) -> None:
    _, found = seen(path, [segment(ISN, flags=SYN), *pieces([900] * 20)])
    assert [frame.line() for frame in found] == [
        "store0 > 198.18.0.2  kv (CS1)  HELLO  host store0  62 B",
        "store0 > 198.18.0.2  kv (CS1)  MESSAGE  read  request 17  blocks 10-14  blocks 40-40  "
        f"{len(SAID[1])} B",
        "store0 > 198.18.0.2  kv (CS1)  WRITE  layer-loaded  request 17  layer 2  "
        f"tokens 64-191 of hbm  {len(SAID[2])} B",
        "store0 > 198.18.0.2  kv (CS1)  WRITE  persist  request 18  blocks 6-7  "
        f"tokens 64-191 of hbm  {len(SAID[3])} B",
        f"store0 > 198.18.0.2  model (CS1)  MESSAGE  barrier  {len(SAID[4])} B",
    ]


def test_it_answers_which_bytes_of_a_request_crossed_and_in_which_class(path: Path) -> None:
    half = len(STREAM) // 2
    packets = [segment(ISN + 1, STREAM[:half], dscp=EF)]
    packets.append(segment(ISN + 1 + half, STREAM[half:]))
    reading = read(write(path, [segment(ISN, flags=SYN), *packets]), Wanted(request=17))
    by_marks = {taken.marks: (taken.frames, taken.bytes, taken.kv_bytes) for taken in reading.taken}
    whole, split = len(SAID[1]), len(SAID[2])
    assert by_marks == {(EF,): (1, whole, 0), (CS1, EF): (1, split, 5120)}
    assert read(path, Wanted(request=17, dscp=CS1)).taken[0].bytes == split
    assert read(path, Wanted(traffic_class="model")).taken[0].frames == 1
    assert not read(path, Wanted(request=99)).taken


@given(st.lists(st.integers(1, 3000), min_size=3, max_size=60), st.data())
def test_lost_segments_cost_the_frames_that_they_hit_and_no_more(
    path: Path, sizes: list[int], data: st.DataObject
) -> None:
    sent = pieces(sizes)
    lost = data.draw(st.sets(st.integers(0, len(sent) - 1), max_size=4))
    kept = [packet for number, packet in enumerate(sent) if number not in lost]
    summary, found = seen(path, [segment(ISN, flags=SYN), *kept])
    captured = sum(len(packet.data) - 66 for packet in kept)
    assert sum(flow.payload_bytes for flow in summary.flows) == captured
    for account in summary.flows:
        assert account.frame_bytes + account.unparsed_bytes == account.payload_bytes
    hit, at = set(), 0
    for number, said in enumerate(SAID):
        for index, (place, piece) in enumerate(cut(STREAM, sizes)):
            if index in lost and place < at + len(said) and place + len(piece) > at:
                hit.add(number)
        at += len(said)
    # A frame whose start is lost hides those that lie whole in front of the next header: none.
    whole = [(f.kind, f.request, f.bytes) for f in found if not f.missing_bytes]
    for number in set(range(len(SAID))) - hit:
        header_seen = (KINDS[number], [-1, 17, 17, 18, -1][number], len(SAID[number]))
        assert header_seen in whole


def test_what_the_peer_has_but_the_file_has_not_is_given_up_at_once(path: Path) -> None:
    sent = pieces([1000] * 20)
    acknowledged = segment(5, back=True, acknowledged=ISN + 1 + 4000)
    _, found = seen(path, [segment(ISN, flags=SYN), sent[0], *sent[2:4], acknowledged, sent[5]])
    assert [frame.kind for frame in found][:3] == ["HELLO", "MESSAGE", "WRITE"]
    assert found[2].missing_bytes >= 1000


def test_a_capture_that_joins_in_mid_stream_begins_with_the_next_whole_frame(path: Path) -> None:
    skipped = len(SAID[0]) + 10
    packets = [
        segment(ISN + 1 + skipped + at, data) for at, data in cut(STREAM[skipped:], [700] * 9)
    ]
    summary, found = seen(path, packets)
    assert [frame.kind for frame in found] == KINDS[2:]
    assert only(summary).unparsed_bytes == len(SAID[1]) - 10


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8), st.booleans())
def test_bytes_that_are_not_ours_are_unparsed_and_break_nothing(
    path: Path, foreign: list[bytes], begun: bool
) -> None:
    packets, at = ([segment(ISN, flags=SYN)] if begun else []), ISN + 1
    for data in [*foreign, SAID[1], b"DPKV\x01\x02junk", SAID[2], b"DPK"]:
        packets.append(segment(at, data))
        at += len(data)
    summary, found = seen(path, packets)
    assert [frame.request for frame in found] == [17, 17]
    account = only(summary)
    assert account.unparsed_bytes == sum(map(len, foreign)) + 10 + 3
    assert account.frame_bytes + account.unparsed_bytes == account.payload_bytes


def test_a_malformed_note_is_unparsed_and_the_stream_goes_on(path: Path) -> None:
    broken = bytearray(SAID[1])
    broken[54:60] = b"\xc1" * 6
    packets = [segment(ISN, flags=SYN), segment(ISN + 1, bytes(broken) + SAID[2])]
    _, found = seen(path, packets)
    assert [frame.message for frame in found] == ["unparsed", "layer-loaded"]


def test_packets_cut_by_the_snaplen_still_count_whole(path: Path) -> None:
    sent = [Sent(p.data[:200], p.outgoing, len(p.data)) for p in pieces([1400] * 20)]
    summary, found = seen(path, [segment(ISN, flags=SYN), *sent])
    account = only(summary)
    assert account.payload_bytes == len(STREAM)
    captured = sum(len(packet.data) - 66 for packet in sent)
    assert account.frame_bytes + account.unparsed_bytes == captured
    assert found[0].kind == "HELLO"


def test_a_handshake_that_is_sent_once_more_does_not_begin_the_stream_again(path: Path) -> None:
    half = len(STREAM) // 2
    summary, found = seen(path, [
        segment(ISN, flags=SYN), segment(ISN, flags=SYN), segment(ISN + 1, STREAM[:half]),
        segment(ISN, flags=SYN), segment(ISN + 1 + half, STREAM[half:]),
    ])  # fmt: skip
    assert [frame.kind for frame in found] == KINDS
    assert only(summary).retransmitted_bytes == 0


def test_a_hole_is_given_up_when_more_than_a_window_waits_behind_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PENDING_LIMIT_BYTES", 4000)
    sent = pieces([1000] * 20)
    late = [segment(ISN, flags=SYN), sent[0], *sent[2:], sent[1]]  # the second comes too late
    summary, _ = seen(path, late)
    account = only(summary)
    assert account.missing_bytes == account.retransmitted_bytes == 1000
    assert account.payload_bytes == len(STREAM) - 1000


def test_ports_that_are_used_again_are_another_connection(path: Path) -> None:
    packets = []
    for first in (ISN, 5000):
        packets += [segment(first, flags=SYN), segment(first + 1, STREAM)]
    summary, found = seen(path, packets)
    assert [frame.kind for frame in found] == KINDS * 2
    assert only(summary).payload_bytes == 2 * len(STREAM)


@pytest.mark.parametrize(("found", "name"), [(EF, "EF (46)"), (CS0, "CS0 (0)")])
def test_a_mis_marked_flow_is_named_with_interface_flow_and_both_marks(
    path: Path, found: int, name: str
) -> None:
    packets = [segment(ISN, flags=SYN), *pieces([1448] * 20, dscp=found)]
    summary, _ = seen(path, [*packets, segment(1, back=True)])
    (wrong,) = summary.mis_marked
    assert (wrong.expected_dscp, wrong.found_dscp, wrong.traffic_class) == (CS1, found, "kv")
    assert wrong.payload_bytes == len(STREAM)
    assert str(wrong) == (
        "pe0-buf:snic: flow 198.18.0.3:40000 > 198.18.0.2:9411 of class kv should have DSCP CS1 "
        f"(8), and {wrong.packets} segments with {len(STREAM)} payload bytes had {name}"
    )


def test_ports_that_are_not_ours_are_counted_and_neither_decoded_nor_judged(path: Path) -> None:
    packets = [segment(ISN + 1, STREAM, port=5201, dscp=CS0)]
    summary, found = seen(path, packets)
    assert not found and not summary.mis_marked
    (total,) = summary.classes
    assert (total.traffic_class, total.payload_bytes) == ("other", len(STREAM))


def test_an_offloaded_packet_counts_a_header_for_each_of_its_segments(path: Path) -> None:
    summary, _ = seen(path, [segment(1, bytes(1448 * 3 + 1), flags=ACK)])
    (mark,) = summary.marks
    assert (mark.wire_packets, mark.wire_bytes) == (4, 1448 * 3 + 1 + 4 * 66)

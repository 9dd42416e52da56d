"""Capture files: what scapy and tcpdump make of ours, we of theirs, and of broken ones."""

import shutil
import subprocess
from pathlib import Path

import pytest
from capture_packets import CS1, EF, ISN, SYN, Sent, conversation, cut, segment, write_capture

from engines.real.frames import HEADER_BYTES
from testbed.capture.reader import CaptureFile, Packet
from testbed.capture.segments import look
from testbed.cli.main import main
from testbed.errors import InputError

STREAM = b"".join(conversation())


def talk(dscp: int = CS1, first: int = ISN) -> list[Sent]:
    pieces = [segment(first + 1 + at, data, dscp=dscp) for at, data in cut(STREAM, [1448] * 20)]
    return [segment(first, flags=SYN, dscp=dscp), *pieces, segment(1, back=True, dscp=dscp)]


def packets(path: Path) -> list[tuple[int, bool | None, int, bytes]]:
    with CaptureFile(path) as file:
        return [(at, way, length, bytes(data)) for at, way, length, data in file]


def test_scapy_reads_our_header_times_directions_and_lengths(tmp_path: Path) -> None:
    from scapy.utils import RawPcapNgReader

    sent = [Sent(b"a" * 61, True), Sent(b"b" * 64, False), Sent(b"c" * 70, True, 65_000)]
    path = write_capture(tmp_path / "a.pcapng", sent)
    with RawPcapNgReader(str(path)) as reader:
        read = list(reader)
    assert [data for data, _ in read] == [packet.data for packet in sent]
    for number, (_, meta) in enumerate(read, 1):
        assert (meta.linktype, meta.tsresol, meta.ifname) == (1, 10**9, b"pe0-buf:snic")
        assert (meta.tshigh << 32) + meta.tslow == number * 1000
    assert [meta.wirelen for _, meta in read] == [61, 64, 65_000]
    assert [meta.direction for _, meta in read] == [2, 1, 2]
    assert packets(path) == [
        (1000, True, 61, sent[0].data),
        (2000, False, 64, sent[1].data),
        (3000, True, 65_000, sent[2].data),
    ]


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
def test_tcpdump_reads_our_file(tmp_path: Path) -> None:
    path = write_capture(tmp_path / "a.pcapng", talk())
    command = ["tcpdump", "-nn", "-r", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    lines = found.stdout.splitlines()
    assert len(lines) == len(talk())
    assert "198.18.0.3.40000 > 198.18.0.2.9411: Flags [S]" in lines[0]


@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_we_read_pcap_of_both_resolutions_and_byte_orders(
    tmp_path: Path, nano: bool, endianness: str
) -> None:
    from scapy.utils import RawPcapWriter

    path = tmp_path / "a.pcap"
    with RawPcapWriter(str(path), linktype=1, nano=nano, endianness=endianness) as writer:
        writer.write_header(None)
        writer.write_packet(b"x" * 60, sec=3, usec=250, wirelen=1514)
    assert packets(path) == [(3 * 10**9 + 250 * (1 if nano else 1000), None, 1514, b"x" * 60)]


def test_a_file_cut_anywhere_gives_every_packet_before_the_cut(tmp_path: Path) -> None:
    whole = write_capture(tmp_path / "whole.pcapng", talk()).read_bytes()
    every = packets(tmp_path / "whole.pcapng")
    path, before = tmp_path / "cut.pcapng", 0
    for size in range(28, len(whole), 97):
        path.write_bytes(whole[:size])
        with CaptureFile(path) as file:
            found = [(at, way, length, bytes(data)) for at, way, length, data in file]
        assert found == every[: len(found)] and len(found) >= before
        before = len(found)
    assert before >= len(every) - 1


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"),
    (b"GIF89a not a capture at all", "is no capture"),
    (b"\x0a", "is no capture"),
])  # fmt: skip
def test_what_is_no_capture_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words), CaptureFile(path) as file:
        list(file)


def test_damage_inside_a_file_is_said_with_its_place(tmp_path: Path) -> None:
    path = write_capture(tmp_path / "a.pcapng", talk())
    data = bytearray(path.read_bytes())
    data[32:36] = b"\x07\x00\x00\x00"  # the second block's size
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged at byte 28"), CaptureFile(path) as file:
        list(file)


IPV4 = bytes(12) + b"\x08\x00"


@pytest.mark.parametrize("data", [
    b"",
    b"x" * 13,
    bytes(12) + b"\x86\xdd" + bytes(60),  # IPv6
    IPV4 + b"\x45" + bytes(9),
    IPV4 + b"\x4f\x00" + bytes(7) + b"\x06" + bytes(40),  # options, and then nothing
    IPV4 + bytes(60),
])  # fmt: skip
def test_packets_that_are_no_tcp_count_as_they_are(data: bytes) -> None:
    seen = look(Packet(1, True, 100, memoryview(data)))
    assert (seen.tcp, seen.wire_bytes, seen.wire_packets) == (None, 100, 1)


def test_scapy_puts_our_frames_together_from_segments(tmp_path: Path) -> None:
    from scapy.sendrecv import sniff
    from scapy.sessions import TCPSession

    from testbed.capture.layer import DualPathFrame

    path = write_capture(tmp_path / "a.pcapng", talk(first=1000))  # its own numbers do not wrap
    found = []
    for packet in sniff(offline=str(path), session=TCPSession):
        while DualPathFrame in packet:
            packet = packet[DualPathFrame]
            found.append(packet)
            packet = packet.payload
    sizes = [len(said) for said in conversation()]
    assert [HEADER_BYTES + len(one.note) + len(one.kv) for one in found] == sizes
    assert [one.mysummary() for one in found] == [
        "DualPath kv HELLO host store0 62 B",
        f"DualPath kv MESSAGE read request 17 blocks 10-14 blocks 40-40 {sizes[1]} B",
        f"DualPath kv WRITE layer-loaded request 17 layer 2 tokens 64-191 of hbm {sizes[2]} B",
        f"DualPath kv WRITE persist request 18 blocks 6-7 tokens 64-191 of hbm {sizes[3]} B",
        f"DualPath model MESSAGE barrier {sizes[4]} B",
    ]
    assert bytes(found[2].kv) == bytes(range(256)) * 20


def test_scapy_says_unparsed_and_finds_the_next_frame_when_joined_in_mid_stream(
    tmp_path: Path,
) -> None:
    from scapy.sendrecv import sniff
    from scapy.sessions import TCPSession

    from testbed.capture.layer import DualPathFrame, DualPathUnparsed

    said = conversation()
    stream = said[1][20:] + said[4] + b"no frame of ours"
    parts = [segment(9 + at, data) for at, data in cut(stream, [40, 300])]
    read = sniff(offline=str(write_capture(tmp_path / "a.pcapng", parts)), session=TCPSession)
    text = " ".join(packet.summary() for packet in read)
    assert "DualPath unparsed" in text
    assert any(DualPathUnparsed in packet for packet in read)
    assert [p[DualPathFrame].kind for p in read if DualPathFrame in p] == [3]


def test_a_built_frame_is_what_the_transport_writes() -> None:
    from testbed.capture.layer import DualPathFrame

    (said,) = conversation()[2:3]
    built = DualPathFrame(said)
    again = DualPathFrame(
        kind=2, traffic_class=1, order=1, run_id=7, epoch=1, request=17, layer=2, sequence=1,
        note=built.note, kv=built.kv,
    )  # fmt: skip
    assert bytes(again) == said


def test_the_verb_prints_a_line_a_frame_and_totals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_capture(tmp_path / "a.pcapng", talk())
    assert main(["capture", "--read", str(path), "--request", "17", "--check"]) == 0
    out = capsys.readouterr().out
    frames = [line for line in out.splitlines() if " > " in line]
    assert [line.split()[1] for line in frames] == ["sent", "sent"]
    assert "read  request 17  blocks 10-14" in frames[0]
    assert "layer-loaded  request 17  layer 2" in frames[1]
    assert "dropped by the writer: 0" in out
    assert "no flow is mis-marked (" in out and "not captured (cut" not in out


def test_the_verb_exits_1_for_a_mis_marked_flow_and_3_for_missing_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_capture(tmp_path / "a.pcapng", talk(EF))
    assert main(["capture", "--read", str(path), "--check", "--totals"]) == 1
    assert "mis-marked: pe0-buf:snic: flow 198.18.0.3:40000" in capsys.readouterr().out
    gap = talk()
    del gap[2]
    path = write_capture(tmp_path / "b.pcapng", gap)
    assert main(["capture", "--read", str(path), "--check", "--json"]) == 3
    assert '"missing_bytes": 1448' in capsys.readouterr().out
    assert main(["capture", "--read", str(path), "--check", "--totals"]) == 3
    out = capsys.readouterr().out
    assert "1448 B were not captured" in out
    assert "the file has not all that crossed" in out
    path = write_capture(tmp_path / "c.pcapng", [])
    assert main(["capture", "--read", str(path), "--check"]) == 3
    assert "nothing was checked: of 0 packets" in capsys.readouterr().out
    assert main(["capture", "--read", str(path)]) == 0
    assert main(["capture", "--read", str(tmp_path / "none")]) == 2

"""Real transports on real links: capture, class counters, account and ledger say the same."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testbed.capture.agree import differing, with_ledger, with_shaper, with_transport
from testbed.capture.records import Frame
from testbed.capture.summary import Summary, summarise
from testbed.fabric.capture import CaptureEnd
from testbed.fabric.counters import LinkClasses
from testbed.fabric.private import start_private

HERE = Path(__file__).parent
BPS = 200e6
RATES = {name: BPS for name in ("snic_bps", "cnic_bps", "pcie_bps", "uplink_bps", "storage_bps")}
LINKS = [("store0", "snic"), ("pe0-buf", "snic"), ("pe0-buf", "pcie"), ("pe0-gpu", "cnic")]
WHOLE = 64 * 64 // 64 * 4 * 2048 * 4  # bytes: 64 blocks of one row, 4 layers, 2048 floats wide
CS0, CS1, EF = 0, 8, 46


def play(folder: Path, **plan: Any) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])}
    whole = {"folder": str(folder), "links": LINKS, "rates": RATES, **plan}
    command = [sys.executable, str(HERE / "capture_lab.py"), json.dumps(whole)]
    with start_private(command, stdout=subprocess.PIPE, env=env) as process:
        out, _ = process.popen.communicate(timeout=90)
    assert process.popen.returncode == 0
    report: dict[str, Any] = json.loads(out)
    return report


def captured(folder: Path, link: tuple[str, str]) -> tuple[Summary, list[Frame]]:
    frames: list[Frame] = []
    return summarise(folder / f"{link[0]}-{link[1]}.pcapng", frames.append), frames


def shaper(report: dict[str, Any], link: tuple[str, str]) -> LinkClasses:
    return msgspec.convert(report["classes"][":".join(link)], LinkClasses)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sound")
    return folder, play(folder)


@pytest.mark.parametrize("link", LINKS, ids=":".join)
def test_capture_and_class_counters_agree_to_the_byte(
    sound: tuple[Path, dict[str, Any]], link: tuple[str, str]
) -> None:
    folder, report = sound
    summary, _ = captured(folder, link)
    end = msgspec.convert(report["ends"][":".join(link)], CaptureEnd)
    assert (end.packets, end.dropped, end.cut) == (summary.packets, 0, 0)
    assert summary.dropped == 0 and not summary.mis_marked and summary.interface == ":".join(link)
    lines = with_shaper(summary, shaper(report, link))
    assert len(lines) == 8 and sum(line.counted for line in lines) > 0
    assert not [str(line) for line in differing(lines)]


def test_capture_and_the_transports_account_agree_to_the_byte_in_each_class(
    sound: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = sound
    for link in (("store0", "snic"), ("pe0-gpu", "cnic")):  # hosts with one data interface
        account = report["accounts"][link[0]]
        sent = {name: account[f"bytes_sent_{name}"] for name in ("model", "kv")}
        summary, _ = captured(folder, link)
        lines = with_transport(summary, sent)
        assert [line.counted for line in lines] == [sent["kv"], sent["model"]]
        assert not [str(line) for line in differing(lines)]
        for total in summary.classes:
            assert total.unparsed_bytes == total.missing_bytes == 0
            assert total.frame_bytes == total.payload_bytes
    both = [captured(folder, ("pe0-buf", nic))[0] for nic in ("snic", "pcie")]
    kv = [t.payload_bytes for s in both for t in s.classes if t.outgoing]
    assert sum(kv) == report["accounts"]["pe0-buf"]["bytes_sent_kv"]


def test_capture_and_the_closed_form_agree_to_the_byte(
    sound: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = sound
    ports = {
        "store0:snic:tx": 2 * WHOLE, "store0:snic:rx": 0,
        "pe0-buf:snic:rx": 2 * WHOLE, "pe0-buf:snic:tx": 0,
        "pe0-buf:pcie:tx": WHOLE, "pe0-buf:pcie:rx": 0,
        "pe0-gpu:cnic:rx": WHOLE, "pe0-gpu:cnic:tx": 0,
    }  # fmt: skip
    lines = [line for link in LINKS for line in with_ledger(captured(folder, link)[0], ports)]
    assert len(lines) == len(ports)
    assert not [str(line) for line in differing(lines)]


def test_every_frame_of_a_request_is_seen_with_its_class_layer_and_hosts(
    sound: tuple[Path, dict[str, Any]],
) -> None:
    _, frames = captured(sound[0], ("pe0-buf", "pcie"))
    written = [f for f in frames if f.kind == "WRITE" and f.request == 17]
    assert [f.layer for f in written] == [0, 1, 2, 3]
    assert {f.message for f in written} == {"layer-loaded"}
    assert {f.source for f in written} == {"pe0-buf"}
    assert {(f.traffic_class, f.marks) for f in written} == {("kv", (CS1,))}
    assert sum(f.payload_bytes for f in written) == WHOLE
    barriers = [f for f in captured(sound[0], ("pe0-gpu", "cnic"))[1] if f.message == "barrier"]
    assert len(barriers) == 80  # forty each way
    assert {(f.traffic_class, f.marks) for f in barriers} == {("model", (EF,))}


def test_a_mis_marked_flow_is_caught_and_named(tmp_path: Path) -> None:
    report = play(tmp_path, mis_mark={"store0": EF, "pe0-buf": CS0})
    store, buffer, gpu = (report["addresses"][name] for name in ("store0", "pe0-buf", "pe0-gpu"))
    expected = {
        ("pe0-buf", "snic"): {
            (store["storage"], buffer["storage"], EF, 2 * WHOLE),
            (buffer["storage"], store["storage"], CS0, 0),
        },
        ("pe0-gpu", "cnic"): {(buffer["compute"], gpu["compute"], CS0, WHOLE)},
    }
    for link, flows in expected.items():
        summary, _ = captured(tmp_path, link)
        found = set()
        for wrong in summary.mis_marked:
            assert (wrong.interface, wrong.traffic_class) == (":".join(link), "kv")
            assert wrong.expected_dscp == CS1
            if not wrong.payload_bytes:
                continue  # refused before its peer listened, with the same wrong mark
            kv = wrong.payload_bytes - wrong.payload_bytes % WHOLE  # without headers and notes
            found.add((wrong.flow.source, wrong.flow.target, wrong.found_dscp, kv))
            assert str(wrong).startswith(f"{':'.join(link)}: flow {wrong.flow} of class kv")
        assert found == flows
        # The kernel agrees about where the bytes went, which is to say the wrong way.
        assert not differing(with_shaper(summary, shaper(report, link)))
    classes = shaper(report, ("pe0-buf", "snic")).received
    assert classes["1:10"].sent_bytes > 2 * WHOLE > classes["1:20"].sent_bytes == 0

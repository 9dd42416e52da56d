"""`testbed capture` on a cluster that lives elsewhere: by name, until a limit or Ctrl-C."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from residue import ROOT, Outside, wait_for

from testbed.capture.reader import CaptureFile
from testbed.capture.segments import look

SMALL = str(ROOT / "topologies" / "1p1d.yaml")
CS6_TOS = "0xc0"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Outside, str]]:
    own = Outside(tmp_path_factory.mktemp("capturing"))
    name = f"t-capture-{own.mark}".replace("_", "-").lower()[:60]
    before = own.snapshot()
    came = own.call("up", SMALL, "--name", name)
    assert came.returncode == 0, came.stderr
    yield own, name
    assert own.call("down", name).returncode == 0
    wait_for(lambda: not own.processes(), "the end of every process")
    assert own.snapshot() == before


def ping(own: Outside, name: str, count: int, *more: str) -> None:
    view = json.loads(own.call("status", name, "--json").stdout)[0]
    store = next(host for host in view["hosts"] if host["name"] == "store0")
    target = store["nics"]["snic"]["ip"]
    words = ("ping", "-i", "0.01", "-c", str(count), "-s", "1000", *more, target)
    ended = own.call("exec", "-c", name, "pe0-buf", "--", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def recording(own: Outside, *words: str) -> "subprocess.Popen[str]":
    """A capture that has begun: it says so once its socket is bound."""
    process = own.start("capture", *words)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("recording "), line
    return process


def seen(path: Path) -> list[tuple[bool | None, int, int]]:
    with CaptureFile(path) as file:
        return [(p.outgoing, p.length, look(p).dscp) for p in file]


@pytest.mark.parametrize(("where", "first"), [
    ("pe0-buf:snic", True), ("store0:snic", False), ("lab:store0-snic", True),
])  # fmt: skip
def test_ctrl_c_ends_a_recording_and_all_that_crossed_is_in_it(
    up: tuple[Outside, str], where: str, first: bool
) -> None:
    own, name = up
    process = recording(own, "-c", name, where)
    ping(own, name, 5, "-Q", CS6_TOS)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0, out
    assert "10 packets, 0 dropped" in out
    packets = seen(own.folder / f"{where.replace(':', '-')}.pcapng")
    assert packets == [(first, 1042, 48), (not first, 1042, 48)] * 5


def test_limits_snaplen_and_json(up: tuple[Outside, str]) -> None:
    own, name = up
    words = ("-c", name, "pe0-buf:snic", "-w", "few.pcapng", "--count", "3", "--snaplen", "64")
    process = recording(own, *words, "--json")
    ping(own, name, 2)
    out, _ = process.communicate(timeout=20)
    end = json.loads(out)
    assert (end["packets"], end["cut"], end["dropped"]) == (3, 3, 0)
    assert [length for _, length, _ in seen(own.folder / "few.pcapng")] == [1042] * 3
    told = own.call("capture", "--read", "few.pcapng", "--json")
    assert json.loads(told.stdout)["summary"]["interface"] == "pe0-buf:snic"


@pytest.mark.parametrize(("words", "named"), [
    (("pe0-bux:snic",), "nearest host: 'pe0-buf'"),
    (("pe0-buf:snix",), "'snic'"),
    (("pe0-buf",), "HOST:NIC"),
    (("pe0-buf:snic", "--snaplen", "3"), "snaplen of 3"),
    (("pe0-buf:snic", "-w", "none/x.pcapng"), "none/x.pcapng: cannot be written"),
    (("pe0-buf:snic", "--request", "17"), "--request is for --read"),
    (("--read", "x", "--seconds", "2"), "--seconds is for a recording"),
    ((), "name one interface"),
])  # fmt: skip
def test_what_cannot_be_recorded_is_refused_in_one_line(
    up: tuple[Outside, str], words: tuple[str, ...], named: str
) -> None:
    own, name = up
    before = sorted(own.folder.iterdir())
    ended = own.call("capture", *(() if "--read" in words else ("-c", name)), *words)
    assert ended.returncode == 2, ended.stderr
    assert named in ended.stderr and len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert sorted(own.folder.iterdir()) == before


def test_a_recording_ends_with_its_cluster(up: tuple[Outside, str]) -> None:
    own, name = up
    other = f"{name[:56]}-b"
    assert own.call("up", SMALL, "--name", other).returncode == 0
    process = recording(own, "-c", other, "pe0:uplink", "-w", "uplink.pcapng")
    assert own.call("down", other).returncode == 0
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and "its cluster ended" in out
    with CaptureFile(own.folder / "uplink.pcapng") as file:
        assert list(file) == [] and file.interfaces == ["pe0:uplink"]

"""A capture ends when it should, keeps what it should, and a killed one leaves a file to read."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.capture.reader import CaptureFile
from testbed.fabric.private import start_private

HERE = Path(__file__).parent
DATAGRAM = 14 + 20 + 8 + 1000


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("limits")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])}
    command = [sys.executable, str(HERE / "capture_limits_lab.py"), str(folder)]
    with start_private(command, stdout=subprocess.PIPE, env=env) as process:
        out, _ = process.popen.communicate(timeout=60)
    assert process.popen.returncode == 0
    return folder, json.loads(out)


def lengths(path: Path) -> tuple[list[tuple[int, int]], CaptureFile]:
    with CaptureFile(path) as file:
        return [(packet.length, len(packet.data)) for packet in file], file


def test_what_crossed_before_the_stop_is_all_in_the_file(
    played: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = played
    found, file = lengths(folder / "stop.pcapng")
    assert found == [(DATAGRAM, DATAGRAM)] * 100
    assert report["ends"]["stop"] == [100, 0, 0, ""]
    assert (file.dropped, file.cut_short, file.interfaces) == (0, False, ["snic"])


@pytest.mark.parametrize(("name", "count", "kept"), [
    ("count", 50, DATAGRAM), ("short", 20, 64), ("child", 10, DATAGRAM),
])  # fmt: skip
def test_count_and_snaplen_hold_to_the_packet(
    played: tuple[Path, dict[str, Any]], name: str, count: int, kept: int
) -> None:
    folder, report = played
    found, file = lengths(folder / f"{name}.pcapng")
    assert found == [(DATAGRAM, kept)] * count
    cut = count if kept < DATAGRAM else 0
    packets, dropped, was_cut, why = report["ends"][name]
    assert (packets, was_cut, why) == (count, cut, f"{count} packets are kept")
    assert file.dropped == dropped


def test_seconds_end_it(played: tuple[Path, dict[str, Any]]) -> None:
    folder, report = played
    packets, _, _, why = report["ends"]["seconds"]
    assert why == "0.3 s are over"
    assert packets == len(lengths(folder / "seconds.pcapng")[0]) > 100


def test_a_killed_capture_leaves_every_packet_that_was_written(
    played: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = played
    found, file = lengths(folder / "killed.pcapng")
    assert set(found) == {(DATAGRAM, DATAGRAM)}
    # At most the last packet is cut; each takes its data, padding and 44 bytes of frame.
    assert len(found) + 1 >= (report["killed_bytes"] - 200) // (DATAGRAM + 2 + 44)
    assert file.dropped is None  # it had no time to say


def test_what_cannot_be_captured_is_refused_and_leaves_no_file(
    played: tuple[Path, dict[str, Any]],
) -> None:
    _, report = played
    unknown, path, snaplen, outside = report["refused"]
    assert unknown == (
        "InputError: no interface 'snicc' to capture on; there are lo, mgmt, pcie, snic"
    )
    assert path.startswith("InputError") and "cannot be written: No such file" in path
    assert "snaplen of 10 bytes is not between 64" in snaplen
    assert outside.startswith("EnvironmentUnfit: network namespace fd")
    assert report["left"] == []

"""A test that fails leaves the packets of the links that it wanted recorded."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from residue import Outside

from testbed.capture.summary import summarise

TEST = """
import pytest

@pytest.mark.experiment("1p1d")
@pytest.mark.capture("pe0-buf:snic")
def test_fails(fabric):
    fabric.capture("store0:snic")
    target = fabric.address("store0", "snic")
    fabric.run("pe0-buf", ["ping", "-c", "2", "-i", "0.01", "-Q", "0xb8", target])
    assert not "pings are no KV"
"""


def test_packets_of_a_failed_test_are_kept(tmp_path: Path) -> None:
    own = Outside(tmp_path)
    (tmp_path / "test_ping.py").write_text(TEST)
    plugin = ["-p", "no:cacheprovider", "-W", "error"]
    if not [entry for entry in entry_points(group="pytest11") if entry.name == "dualpath"]:
        plugin += ["-p", "testbed.pytest_plugin"]  # the package was installed before it had one
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "test_ping.py", *plugin, "--dualpath-keep", "kept"],
        cwd=tmp_path, env=own.env, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 1 and "pings are no KV" in ended.stdout, ended.stdout + ended.stderr
    assert "warning" not in ended.stdout.lower(), ended.stdout
    found = {path.name: path for path in (tmp_path / "kept").rglob("*.pcapng")}
    assert sorted(found) == ["pe0-buf-snic.pcapng", "store0-snic.pcapng"]
    for path in found.values():
        summary = summarise(path)
        assert (summary.packets, summary.dropped) == (4, 0)
        assert {mark.dscp for mark in summary.marks} == {46}
    assert not own.processes()

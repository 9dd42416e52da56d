"""What exists outside of clusters, to compare before and after; and commands to be killed."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTBED = [sys.executable, "-m", "testbed.cli.main"]
MARK = "DUALPATH_TEST_MARK"
GONE_WITHIN_S = 3.0


class Outside:
    """This test's view of the machine: its own processes by a mark in their environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"{os.getpid()}-{folder.name}"
        (folder / "tmp").mkdir()
        self.env = {
            **os.environ, "PYTHONPATH": str(ROOT), MARK: self.mark,
            "TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache"),
        }  # fmt: skip

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """A testbed command in the background, in a session of its own."""
        return subprocess.Popen(
            [*TESTBED, *words], env=self.env, cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """A testbed command to its end."""
        return subprocess.run(
            [*TESTBED, *words], env=self.env, cwd=self.folder, text=True, capture_output=True,
            timeout=60, check=False,
        )  # fmt: skip

    def processes(self) -> set[int]:
        """Those that carry the mark."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    carried = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if f"{MARK}={self.mark}".encode() in carried:
                    found.add(int(entry.name))
        return found

    def names(self, name: str) -> list[str]:
        """Control sockets of clusters whose names begin so."""
        text = Path("/proc/net/unix").read_text()
        return re.findall(rf"@dualpath-testbed/\d+/({name}\S*)", text)

    def snapshot(self) -> dict[str, object]:
        """Links, qdiscs, mounts and temporary files; namespaces die with processes."""
        shaped = subprocess.run(["tc", "qdisc"], capture_output=True, text=True, check=False)
        return {
            "links": sorted(socket.if_nameindex()),
            "qdiscs": re.sub(r"refcnt \d+", "", shaped.stdout),
            "mounts": Path("/proc/self/mountinfo").read_text(),
            "files": sorted(os.listdir(self.folder / "tmp")),
        }


def wait_for(met: Callable[[], bool], what: str, within_s: float = GONE_WITHIN_S) -> None:
    """Poll a condition; AssertionError when it does not come true in time."""
    deadline_s = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline_s, f"{what} did not come within {within_s:g} s"
        time.sleep(0.02)

"""The doctor tries, and tells what it saw; also where user namespaces are refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.fabric.probe import probe

ROOT = Path(__file__).parents[2]
DOCTOR = [sys.executable, "-m", "testbed.cli.main", "doctor"]
NEEDED = (
    "namespaces", "proc mount", "netns", "setns", "bridge", "veth", "htb", "bfifo", "pfifo",
    "u32", "ip tos", "tcp cubic", "pyroute2", "mininet", "lmdb", "uvloop", "torch",
)  # fmt: skip
HELPFUL = ("ifb", "nft", "netem", "packet socket", "rxe", "run delay", "psi", "cgroup")
# A user namespace has a limit of its own, so the machine's stays what it is.
REFUSING = ["unshare", "--user", "--map-root-user", "sh", "-c",
            'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh"]  # fmt: skip


def call(*argv: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=100, check=False, cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cwd / "cache"), **settings},
    )  # fmt: skip


def rows(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads(ended.stdout)}


@pytest.mark.usefixtures("privilege")
def test_every_primitive_is_tried_and_the_machine_left_as_it_was(tmp_path: Path) -> None:
    before = socket.if_nameindex(), os.stat("/proc/self/ns/net").st_ino
    found = {row.name: row for row in probe(tmp_path / "runs", tmp_path / "cache")}
    assert {name for name in NEEDED if found[name].status != "ok"} == set()
    for name in HELPFUL:  # never in the way
        assert found[name].status == "ok" or found[name].fallback
    for row in found.values():
        assert row.status == "ok" or row.fix
    for name in ("disk of runs", "disk of cache", "open files", "memory", "cores", "cpu speed"):
        assert found[name].detail
    assert (socket.if_nameindex(), os.stat("/proc/self/ns/net").st_ino) == before
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_can_exits_with_0_and_a_line_for_each(tmp_path: Path) -> None:
    told = call(*DOCTOR, "--json", cwd=tmp_path)
    assert told.returncode == 0
    found = rows(told)
    lines = call(*DOCTOR, cwd=tmp_path).stdout.splitlines()
    assert [line[10:26].strip() for line in lines] == list(found)
    assert list(tmp_path.iterdir()) == []


def test_torch_is_not_imported_unless_asked_for(tmp_path: Path) -> None:
    assert "not imported" in rows(call(*DOCTOR, "--json", cwd=tmp_path))["torch"]["detail"]
    deep = rows(call(*DOCTOR, "--json", "--deep", cwd=tmp_path))["torch"]
    assert deep["status"] == "ok"
    assert "imported and used" in deep["detail"]


def test_where_user_namespaces_are_refused_the_command_that_allows_them_is_printed(
    tmp_path: Path,
) -> None:
    before = Path("/proc/sys/user/max_user_namespaces").read_text()
    ended = call(*REFUSING, *DOCTOR, "--json", cwd=tmp_path, DUALPATH_PRIVILEGE="rootless")
    assert ended.returncode == 4
    row = rows(ended)["namespaces"]
    assert row["status"] == "missing"
    assert "user.max_user_namespaces=10000" in row["fix"]
    assert "under sudo" in row["fix"]
    assert Path("/proc/sys/user/max_user_namespaces").read_text() == before


def test_where_user_namespaces_are_refused_sudo_mode_works_and_says_so(tmp_path: Path) -> None:
    ended = call(*REFUSING, *DOCTOR, "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = rows(ended)
    assert found["namespaces"]["status"] == "degraded"
    assert "user.max_user_namespaces=10000" in found["namespaces"]["fix"]
    assert {name for name in NEEDED[1:] if found[name]["status"] != "ok"} == set()
    words = call(*REFUSING, *DOCTOR, cwd=tmp_path)
    assert "To run without sudo, once: echo user.max_user_namespaces=10000" in words.stderr


def test_without_util_linux_the_machine_is_unfit_and_a_command_mends_it(tmp_path: Path) -> None:
    ended = call(*DOCTOR, "--json", cwd=tmp_path, PATH=str(tmp_path))
    assert ended.returncode == 4
    assert rows(ended)["namespaces"]["fix"] == "sudo apt install util-linux"

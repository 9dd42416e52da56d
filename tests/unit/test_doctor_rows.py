"""What the doctor makes of what it finds, and how it says so."""

import os
import shutil
import struct
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyroute2")

from testbed.cli.doctor import line, summary
from testbed.errors import EnvironmentUnfit
from testbed.fabric import machine, trials
from testbed.fabric.findings import Check, Finding, run_check
from testbed.fabric.probe import allow_rootless, privilege_row, user_namespace_fix

NETEM = Finding("netem", "degraded", "not in this kernel", "sudo modprobe sch_netem", "due time")


def refuse() -> str:
    raise EnvironmentUnfit("no such thing; run `testbed doctor`")


def test_a_refusal_is_missing_without_a_fallback_and_degraded_with_one() -> None:
    assert run_check(Check("x", refuse, "mend")).status == "missing"
    found = run_check(Check("x", refuse, "mend", "another way"))
    assert (found.status, found.detail) == ("degraded", "no such thing")
    assert (found.fix, found.fallback) == ("mend", "another way")


@pytest.mark.parametrize(
    ("sysctl", "value", "allowed"),
    [
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
    ],
)
def test_the_setting_that_refuses_user_namespaces_is_the_one_that_is_mended(
    sysctl: str, value: str, allowed: str
) -> None:
    told = {sysctl: value}.get
    assert f"{sysctl}={allowed}" in allow_rootless(told)
    assert "sudo" in user_namespace_fix(told)
    row = privilege_row("sudo", told)
    assert (row.status, row.fix) == ("degraded", allow_rootless(told))


def test_where_nothing_refuses_nothing_is_to_be_set() -> None:
    open_machine = {
        "kernel.apparmor_restrict_unprivileged_userns": "0", "user.max_user_namespaces": "96365"
    }.get  # fmt: skip
    assert allow_rootless(open_machine) == ""
    assert privilege_row("sudo", open_machine).status == "ok"
    assert "container" in user_namespace_fix(open_machine)


@pytest.mark.parametrize(
    ("share", "cores", "times"), [(1.0, 2, None), (0.7, 8, None), (0.5, 2, "2.0"), (1.0, 1, "2.0")]
)
def test_a_slow_core_or_a_lone_one_asks_for_a_larger_time_scale(
    share: float, cores: int, times: str | None
) -> None:
    row = machine.cpu_speed(share, cores)
    if times is None:
        assert row.status == "ok"
    else:
        assert row.status == "degraded"
        assert f"time_scale {times} times" in row.fallback


def test_a_library_that_was_cut_short_is_told_from_a_whole_one(tmp_path: Path) -> None:
    size, sections_at = 4096, 4000
    header = bytearray(64)
    header[:5] = b"\x7fELF\x02"
    struct.pack_into("=Q", header, 40, sections_at)
    struct.pack_into("=HH", header, 58, 16, 6)
    library = tmp_path / "lib.so"
    library.write_bytes(bytes(header) + bytes(size - 64))
    machine.require_whole_library(library)
    os.truncate(library, size - 1)
    with pytest.raises(OSError, match="cut short"):
        machine.require_whole_library(library)
    library.write_bytes(b"<html>not found</html>" * 10)
    with pytest.raises(OSError, match="no 64-bit library"):
        machine.require_whole_library(library)


def test_torch_without_its_libraries_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # as in a command of its own
    row = next(row for row in machine.packages() if row.name == "torch")
    assert row.status == "missing"
    assert "libc10.so" in row.detail


def test_a_disk_is_tried_where_the_folder_will_be_and_left_empty(tmp_path: Path) -> None:
    row = machine.disk("disk", tmp_path / "not" / "yet", "choose another")
    assert f"at {tmp_path}" in row.detail
    assert "MiB/s" in row.detail
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_missing() -> None:
    row = machine.disk("disk", Path("/proc/self/runs"), "choose another")
    assert (row.status, row.fix) == ("missing", "choose another")


def test_a_full_disk_is_missing_and_a_small_one_degraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for free in (100, 1000, 10_000):
        usage = shutil._ntuple_diskusage(0, 0, free << 20)  # type: ignore[attr-defined]
        monkeypatch.setattr("shutil.disk_usage", lambda _, usage=usage: usage)
        found.append(machine.disk("disk", tmp_path, "free some").status)
    assert found == ["missing", "degraded", "ok"]


def test_ones_own_cgroup_is_found_below_the_mount_of_cgroup_2() -> None:
    mounts = (
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "40 31 0:40 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n"
    )
    found = machine.own_cgroup("1:cpu:/x\n0::/user.slice/a\n", mounts)
    assert found == Path("/sys/fs/cgroup/unified/user.slice/a")
    with pytest.raises(OSError, match="no cgroup 2"):
        machine.own_cgroup("1:cpu:/x\n", mounts)


def test_rxe_is_looked_for_by_its_sockets_and_never_loaded() -> None:
    if Path("/sys/module/rdma_rxe").exists():
        pytest.skip("this machine has rxe loaded")
    with pytest.raises(OSError, match="not loaded"):
        trials.rxe(-1)
    assert trials.roce_sockets() == 0


def test_a_piped_row_is_one_line_and_a_terminals_fits_its_width() -> None:
    long = Finding(
        "cgroup", "degraded", "no cpu controller " * 3, "f", "run delay and sleeper " * 4
    )
    assert "\n" not in line(long, None)
    lines = line(Finding("veth", "ok", "created"), 80).splitlines()
    assert len(lines) == 1
    below = line(long, 80).splitlines()
    assert len(below) > 1
    assert all(text.startswith(" " * 26) for text in below[1:])
    assert max(map(len, below[1:])) <= 80


def test_a_row_says_what_is_used_or_what_mends() -> None:
    assert "not in this kernel; instead: due time" in line(NETEM, None)
    missing = Finding("htb", "missing", "refused", "sudo modprobe sch_htb")
    assert "refused; to mend: sudo modprobe sch_htb" in line(missing, None)
    assert "1 degraded, 1 missing: the emulated world does not run" in summary([NETEM, missing])
    assert "1 ok, 1 degraded, 0 missing" in summary([NETEM, Finding("veth", "ok", "made")])

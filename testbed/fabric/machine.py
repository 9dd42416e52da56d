"""What the machine itself has: packages, cores, memory, disks, and what it tells of itself."""

import importlib
import importlib.metadata
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from testbed.fabric.findings import Check, Finding, Status, run_check

MIB = 1 << 20
INSTALL = "pip install '.[emulated]' in the project's folder"
TORCH_LIBRARIES = ("libc10.so", "libtorch_cpu.so", "libtorch_python.so")
LOOP_STEPS, LOOPS = 50_000, 5
# One core of the machine on which the packaged experiments got their time_scale, in seconds.
REFERENCE_LOOP_S = 0.006
WRITTEN_BYTES = 4 * MIB
STOLEN = "run delay of each engine and a 1 ms sleeper tell of stolen CPU"


def _package(name: str, module: str) -> Check:
    def trial() -> str:
        importlib.import_module(module)
        return importlib.metadata.version(name)

    return Check(name, trial, INSTALL)


def _mininet() -> str:
    from testbed.fabric import _distutils

    _distutils.install()
    importlib.import_module("mininet.net")
    return importlib.metadata.version("mininet")


def require_whole_library(path: Path) -> None:
    """Raise OSError unless a shared library has all the bytes that its ELF header promises."""
    with path.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:5] != b"\x7fELF\x02":
        raise OSError(f"{path.name} is no 64-bit library")
    (sections_at,) = struct.unpack_from("=Q", header, 40)
    size, count = struct.unpack_from("=HH", header, 58)
    if path.stat().st_size < sections_at + size * count:
        raise OSError(f"{path.name} is cut short")


def _torch() -> str:
    # Its import takes seconds; what it would load is looked at instead, and --deep imports it.
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise ImportError("not installed")
    folder = Path(spec.origin).parent
    for name in TORCH_LIBRARIES:
        require_whole_library(folder / "lib" / name)
    cuda = re.search(r"^cuda.*= '(.+)'", (folder / "version.py").read_text(), re.MULTILINE)
    build = f"CUDA {cuda[1]} build, used on the CPU" if cuda else "CPU build"
    return f"{importlib.metadata.version('torch')}, {build}; not imported (--deep does)"


DEEP = """
import torch
ones = torch.ones(256, 256)
assert float((ones @ ones)[0, 0]) == 256.0, "a product of two matrices is wrong"
print(torch.__version__)
"""
DEEP_TIMEOUT_S = 60.0


def deep_torch() -> Finding:
    """Import torch and multiply two matrices; takes seconds.

    In a process of its own: on a CPU that lacks an instruction it does not fail, it dies.
    """

    def trial() -> str:
        began_s = time.monotonic()
        command = [sys.executable, "-c", DEEP]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=DEEP_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as late:
            raise OSError(f"not imported after {DEEP_TIMEOUT_S:g} s") from late
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise OSError(last)
        return f"{done.stdout.strip()}, imported and used in {time.monotonic() - began_s:.1f} s"

    return run_check(Check("torch", trial, INSTALL))


def packages() -> list[Finding]:
    """The packages of the emulated world; all but torch are imported."""
    checks = [
        Check("mininet", _mininet, INSTALL),
        _package("lmdb", "lmdb"),
        _package("uvloop", "uvloop"),
        Check("torch", _torch, INSTALL),
    ]
    return [run_check(check) for check in checks]


def _level(
    name: str, found: float, unit: str, good: float, least: float, fix: str, fallback: str
) -> Finding:
    detail = f"{found:g} {unit}"
    if found >= good:
        return Finding(name, "ok", detail)
    status: Status = "degraded" if found >= least else "missing"
    return Finding(name, status, detail, fix, fallback if status == "degraded" else "")


def _available_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def _limit(kind: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def speed_of_a_core() -> float:
    """How fast a fixed loop of arithmetic runs, as a share of the reference core's speed."""
    best_s = float("inf")
    for _ in range(LOOPS):
        value, began_s = 1, time.perf_counter()
        for _ in range(LOOP_STEPS):
            value = (value * 1103515245 + 12345) & 0x7FFFFFFF
        best_s = min(best_s, time.perf_counter() - began_s)
    return REFERENCE_LOOP_S / best_s


def cpu_speed(share: float, cores: int) -> Finding:
    """What a core's speed means for an experiment's time_scale."""
    detail = f"{share:.2f} of the core that experiments were scaled on"
    enough = share * min(cores, 2) / 2
    if enough >= 0.6:
        return Finding("cpu speed", "ok", detail)
    return Finding(
        "cpu speed", "degraded", detail, "use a faster machine, or end what else runs on it",
        f"time_scale {1 / enough:.1f} times the experiment's (--time-scale)",
    )  # fmt: skip


def levels() -> list[Finding]:
    """Limits of the account, memory, cores and their speed."""
    cores = len(os.sched_getaffinity(0))
    small = "small clusters alone: each host takes some"
    return [
        _level("open files", _limit(resource.RLIMIT_NOFILE), "at most", 4096, 512,
               "ulimit -Hn 65536, in the login shell", small),
        _level("user processes", _limit(resource.RLIMIT_NPROC), "at most", 4096, 512,
               "ulimit -Hu 8192, in the login shell", small),
        _level("memory", _available_mib(), "MiB free", 4096, 1024,
               "close programs; 4 GiB is good", "runs whose memories do not fit are refused"),
        _level("cores", cores, "usable", 2, 1,
               "use a machine with two or more", "a larger time_scale (--time-scale)"),
        cpu_speed(speed_of_a_core(), cores),
    ]  # fmt: skip


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def disk(name: str, folder: Path, fix: str) -> Finding:
    """Room and speed of the disk that will hold a folder; leaves nothing there."""
    place = existing(folder)
    free_mib = shutil.disk_usage(place).free // MIB
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            began_s = time.perf_counter()
            file.write(bytes(WRITTEN_BYTES))
            file.flush()
            os.fdatasync(file.fileno())
            speed = WRITTEN_BYTES / MIB / (time.perf_counter() - began_s)
    except OSError as refusal:
        return Finding(name, "missing", f"{place}: {refusal.strerror}", fix)
    row = _level(name, free_mib, "MiB free", 4096, 512, fix, "runs of small clusters fit")
    detail = f"{row.detail}, {speed:.0f} MiB/s to disk, at {place}"
    return Finding(row.name, row.status, detail, row.fix, row.fallback)


def _pressure() -> str:
    line = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    return line.split()[2].replace("avg60=", "CPU waits ") + " % of the last minute"


def _run_delay() -> str:
    if len(Path("/proc/self/schedstat").read_text().split()) < 2:
        raise OSError("/proc/self/schedstat is empty")
    return "told for each process"


def own_cgroup(cgroups: str, mounts: str) -> Path:
    """The caller's folder in cgroup 2; raises OSError without one."""
    path = next((line[3:] for line in cgroups.splitlines() if line.startswith("0::")), None)
    for line in mounts.splitlines():
        words, _, kind = line.partition(" - ")
        if path is not None and kind.startswith("cgroup2 "):
            return Path(words.split()[4] + path)
    raise OSError("no cgroup 2 is mounted")


def _cgroup() -> str:
    mounts = Path("/proc/self/mountinfo").read_text()
    folder = own_cgroup(Path("/proc/self/cgroup").read_text(), mounts)
    if "cpu" not in (folder / "cgroup.controllers").read_text().split():
        raise OSError("cgroup 2 has no cpu controller here")
    if not os.access(folder, os.W_OK):
        raise OSError("cgroup 2 is not delegated to this user")
    return "delegated, with its cpu controller"


def telling() -> list[Finding]:
    """What the machine tells of its load, without which there are other signs."""
    kernel = "use a kernel with "
    checks = [
        Check("run delay", _run_delay, kernel + "CONFIG_SCHED_INFO",
              "lateness of layers and ticks tells of stolen CPU"),
        Check("psi", _pressure, kernel + "CONFIG_PSI, started with psi=1", STOLEN),
        Check("cgroup", _cgroup, "systemd-run --user --scope -p Delegate=yes testbed doctor",
              STOLEN),
    ]  # fmt: skip
    return [run_check(check) for check in checks]

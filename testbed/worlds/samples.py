"""What the lab notes while a run goes on: counters of every port, and who used the CPUs."""

import os
from collections.abc import Set
from pathlib import Path

import msgspec

Port = tuple[str, str]


class PortBytes(msgspec.Struct, frozen=True):
    """A port's counters as its host sees them: payload bytes received and sent so far."""

    host: str
    nic: str
    rx_payload_bytes: int
    tx_payload_bytes: int


class Sample(msgspec.Struct, frozen=True):
    """One look at the whole cluster, at one moment of real monotonic time.

    `busy_s` is CPU time since the machine's start of the cores that the run may use, `steal_s` the
    part of it that a hypervisor took, and `own_s` that of the lab's processes; `delays_s` says how
    long each host has been runnable without a CPU, and `overshoot_s` how late the sampler itself
    woke up.
    """

    at_monotonic_s: float
    ports: tuple[PortBytes, ...]
    busy_s: float
    own_s: float
    overshoot_s: float
    steal_s: float = 0.0
    delays_s: dict[str, float] = {}


class Sleeps(msgspec.Struct, frozen=True):
    """How late a process came back from each sleep of 1 ms in a row, in microseconds."""

    at_monotonic_s: float
    overshoots_us: tuple[int, ...]


class Backlogged(msgspec.Struct, frozen=True):
    """A while in which a link's queue cannot have run empty, and what left it in that while.

    `link` is `host:nic>` (sent) or `host:nic<` (received); bytes are as on the wire, and
    `nominal_bytes` what the shaper's rate allows.
    """

    link: str
    at_monotonic_s: float
    length_s: float
    wire_bytes: int
    nominal_bytes: float


class Change(msgspec.Struct, frozen=True):
    """Somebody changed the network while the run went on; `kind` is link, qos or mark."""

    at_monotonic_s: float
    kind: str
    what: str


class Samples(msgspec.Struct):
    """All samples of a run, its start on the same clock, and payload by class at its end.

    Keys of `class_bytes` and of `dropped` are `host:nic>` (sent) and `host:nic<` (received), then
    the class; `dropped` counts packets. The run may use `cores` CPUs; a virtual world has none.
    `delay_by` says who made the delays of links (testbed/delays.py).
    """

    start_monotonic_s: float
    samples: list[Sample]
    class_bytes: dict[str, dict[str, int]]
    network_up_s: float
    cores: int = 0
    sleeps: list[Sleeps] = []
    backlogged: list[Backlogged] = []
    dropped: dict[str, dict[str, int]] = {}
    delay_by: str = "none"
    changes: list[Change] = []


def _ticks_per_s() -> int:
    return os.sysconf("SC_CLK_TCK")


def cores() -> int:
    """How many CPUs this process and its children may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_times_s() -> tuple[float, float]:
    """CPU seconds other than idle of the cores that we may use, and what was stolen of them.

    See proc_stat(5); cores that others have to themselves neither help nor harm.
    """
    if not Path("/proc/stat").exists():
        return 0.0, 0.0  # no Linux: there, times are not judged
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    busy = stolen = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *words = line.split()
        if name in ours:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[:8])
            busy += user + nice + system + irq + softirq + steal
            stolen += steal
    return busy / _ticks_per_s(), stolen / _ticks_per_s()


def own_times_s(hosts: Set[str]) -> tuple[float, dict[str, float]]:
    """CPU seconds of every process of this PID namespace, and each host's wait for a CPU.

    Reaped children count; a host's process bears the host's name. A kernel without schedstat
    tells no waits.
    """
    total, delays_s = 0, dict[str, float]()
    if not Path("/proc/stat").exists():
        return 0.0, delays_s
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            if name in hosts:
                delays_s[name] = int((entry / "schedstat").read_text().split()[1]) / 1e9
        except OSError:
            continue  # it ended between the listing and the look
        # utime, stime, cutime, cstime (proc_pid_stat(5), fields 14 to 17)
        total += sum(int(word) for word in rest.split()[11:15])
    return total / _ticks_per_s(), delays_s

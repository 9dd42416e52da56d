"""What the lab notes while a run goes on: counters of every port, and who used the CPUs."""

import os
import time
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

    `busy_s` is CPU time of the machine since its start, `own_s` that of the lab's processes;
    `overshoot_s` says how late the sampler itself woke up.
    """

    at_monotonic_s: float
    ports: tuple[PortBytes, ...]
    busy_s: float
    own_s: float
    overshoot_s: float


class Samples(msgspec.Struct):
    """All samples of a run, its start on the same clock, and payload by class at its end.

    Keys of `class_bytes` are `host:nic>` (sent) and `host:nic<` (received). `delay_by` says who
    made the delays of links (testbed/delays.py).
    """

    start_monotonic_s: float
    samples: list[Sample]
    class_bytes: dict[str, dict[str, int]]
    network_up_s: float
    delay_by: str = "none"


def _ticks_per_s() -> int:
    return os.sysconf("SC_CLK_TCK")


def machine_busy_s() -> float:
    """CPU seconds that the whole machine has spent other than idle (proc_stat(5))."""
    if not Path("/proc/stat").exists():
        return 0.0  # no Linux: there, times are not judged
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) / _ticks_per_s()


def own_cpu_s() -> float:
    """CPU seconds of every process of this PID namespace, reaped children included."""
    if not Path("/proc/stat").exists():
        return 0.0
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended between the listing and the look
            # utime, stime, cutime, cstime (proc_pid_stat(5), fields 14 to 17)
            total += sum(int(word) for word in words[11:15])
    return total / _ticks_per_s()


def now_s() -> float:
    """The machine's monotonic clock, in seconds."""
    return time.monotonic()

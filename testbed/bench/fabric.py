"""`scripts/bench fabric`: links, transport and isolation measured beside their peers."""

import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec

from testbed.bench import fabric_nixl
from testbed.bench.fabric_jobs import (
    Build,
    Built,
    Bulk,
    BulkResult,
    Failed,
    Lab,
    Latency,
    LatencyResult,
)
from testbed.bench.table import Bench
from testbed.fabric.private import PrivateProcess, start_private

TRIALS = 3
# Neighbours of an unshaped pair see the same machine, which a minute later may be half as fast.
PAIRS = 9
RATES_BPS = (50e6, 200e6, 1e9, 2e9)
FLOWS = (1, 8)
OURS, IPERF3, NIXL = "ours", "iperf3", "nixl"
WHOLE, SMALL = 1 << 20, 1 << 16
SMALL_RATES_BPS = (200e6, 1e9)
MODEL_RATES_BPS = (200e6, 1e9)
KV_SENDERS = {1: "one sender", 2: "two senders"}
# 4 KB of MODEL at this pace are 1.7 % of the link, so that KV can have over 97 %.
MESSAGES_A_LINK = 2e6  # bit/s of link for each message a second
BUILT_HOSTS, BUILT_BPS = 64, 1e9

Job = Bulk | Latency
Result = BulkResult | LatencyResult | Failed
T = TypeVar("T")


class Measured:
    """Results of every trial, by job; trials of jobs that are compared alternate."""

    def __init__(self) -> None:
        self._found: dict[tuple[bool, Job], list[Result]] = defaultdict(list)

    def play(self, lab: Lab, tell: Callable[[str], None]) -> None:
        """Run a lab and keep what it says."""
        tell(f"{len(lab.jobs)} measurements, {'with' if lab.qos else 'without'} classes")
        for job, result in zip(lab.jobs, _results(lab), strict=True):
            self._found[lab.qos, job].append(result)

    def all(self) -> list[BulkResult | LatencyResult]:
        """Every trial that has a result."""
        trials = [result for results in self._found.values() for result in results]
        return [result for result in trials if not isinstance(result, Failed)]

    def of(self, job: Job, kind: type[T], qos: bool = True) -> list[T]:
        """Every trial of a job; Missing if one has no result."""
        trials: list[T] = []
        for result in self._found[qos, job]:
            if isinstance(result, Failed):
                raise Missing(result.failed)
            if isinstance(result, kind):
                trials.append(result)
        return trials


class Missing(Exception):
    """There is no number for a claim, and why."""


def _results(lab: Lab) -> Iterator[Result]:
    command = [sys.executable, "-m", "testbed.bench.fabric_lab", msgspec.json.encode(lab).decode()]
    with start_private(command, stdout=subprocess.PIPE) as process:
        for _ in lab.jobs:
            line = _line(process)
            if not line:
                yield Failed("the private network ended too early; see above, or `testbed doctor`")
            else:
                yield msgspec.json.decode(line, type=BulkResult | LatencyResult | Failed)


def _line(process: PrivateProcess) -> bytes:
    assert process.popen.stdout is not None
    return process.popen.stdout.readline()


def _bulk(peer: str, bps: float | None, flows: int = 1, piece: int = WHOLE) -> Bulk:
    # At low rates a packet is a larger share of a second.
    seconds = 0.5 if bps is None else 2.0 if bps < 1e8 else 0.8
    return Bulk(peer, bps, flows, piece, seconds)


def _latency(bps: float, kv_senders: int) -> Latency:
    return Latency(bps, kv_senders, MESSAGES_A_LINK / bps, 2.0 if bps < 5e8 else 1.5)


def shaped_jobs() -> tuple[Job, ...]:
    """One trial of all that is measured on shaped links with classes."""
    jobs: list[Job] = []
    for bps in RATES_BPS:
        for flows in FLOWS:
            jobs += [_bulk(peer, bps, flows) for peer in (OURS, IPERF3)]
    for bps in SMALL_RATES_BPS:
        jobs += [_bulk(peer, bps, 1, SMALL) for peer in (OURS, IPERF3)]
    for bps in MODEL_RATES_BPS:
        jobs += [_latency(bps, senders) for senders in (0, *KV_SENDERS)]
    return tuple(jobs)


def unshaped_jobs(has_nixl: bool) -> tuple[Job, ...]:
    """Ours and NIXL in pairs of neighbours, each first in turn, and iperf3 now and then."""
    one, other, third = (_bulk(peer, None) for peer in (OURS, NIXL, IPERF3))
    if not has_nixl:
        return (one, third) * TRIALS
    jobs: list[Job] = []
    for number in range(PAIRS):
        jobs += [one, other] if number % 2 == 0 else [other, one]
        if number % (PAIRS // TRIALS) == 0:
            jobs.append(third)
    return tuple(jobs)


def claims(bench: Bench, tell: Callable[[str], None]) -> None:
    """Measure it all, in under four minutes, and claim it."""
    python = fabric_nixl.python()
    bench.claim("CPUs that other programs use, before the start", _busy_cpus(), "", None)
    measured = Measured()
    measured.play(Lab(3, True, shaped_jobs() * TRIALS), tell)
    without = tuple(_latency(bps, senders) for bps in MODEL_RATES_BPS for senders in KV_SENDERS)
    measured.play(Lab(3, False, without * TRIALS), tell)
    measured.play(Lab(3, True, unshaped_jobs(bool(python)), python), tell)
    _goodput(bench, measured)
    _beside_iperf3(bench, measured)
    _beside_nixl(bench, measured, bool(python))
    _isolation(bench, measured)
    _others(bench, measured)
    tell(f"{BUILT_HOSTS} hosts, built and ended")
    _building(bench)


def _busy_cpus() -> float:
    """CPUs in use for a second in which we do nothing; over 0.1, read no latency from the rest."""

    def busy_s() -> float:
        ticks = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]))
        return sum(ticks[:3] + ticks[5:8]) / os.sysconf("SC_CLK_TCK")

    before_s = busy_s()
    time.sleep(1.0)
    return busy_s() - before_s


def _others(bench: Bench, measured: Measured) -> None:
    trials = measured.all()
    repeated = sum(bool(trial.repeats) for trial in trials)
    disturbed = sum(trial.others.disturb for trial in trials)
    for what, count in (
        ("repeated, for others used the CPUs", repeated),
        ("counted though others used the CPUs", disturbed),
    ):
        share = count / max(1, len(trials))
        bench.claim(f"share of {len(trials)} measurements {what}", share, "", None)


def _rate(measured: Measured, job: Bulk) -> float:
    return median(trial.goodput_bps for trial in measured.of(job, BulkResult))


def _says(bench: Bench, what: str, wanted: str, claim: Callable[[str], None]) -> None:
    try:
        claim(what)
    except Missing as missing:
        bench.missing(what, wanted, str(missing))


def _goodput(bench: Bench, measured: Measured) -> None:
    for bps in RATES_BPS:
        for flows in FLOWS:
            for peer in (OURS, IPERF3):
                job = _bulk(peer, bps, flows)
                _says(
                    bench,
                    f"{bps / 1e6:g} Mbit/s, {flows} {'flow' if flows == 1 else 'flows'}, {peer}: "
                    "goodput over nominal",
                    "1 +- 0.005",
                    lambda what, job=job, bps=bps: bench.alike(  # type: ignore[misc]
                        what, _rate(measured, job), bps, 0.005
                    ),
                )


def _beside_iperf3(bench: Bench, measured: Measured) -> None:
    pairs = [(bps, WHOLE, "1 MiB") for bps in RATES_BPS]
    pairs += [(bps, SMALL, "64 KiB") for bps in SMALL_RATES_BPS]
    for bps, piece, size in pairs:
        one, other = (_bulk(peer, bps, 1, piece) for peer in (OURS, IPERF3))
        _says(
            bench,
            f"{bps / 1e6:g} Mbit/s, {size} pieces: ours over iperf3",
            ">= 0.98",
            lambda what, one=one, other=other: bench.at_least(  # type: ignore[misc]
                what, _rate(measured, one) / _rate(measured, other), 0.98
            ),
        )


def _beside_nixl(bench: Bench, measured: Measured, has_nixl: bool) -> None:
    def rate(peer: str) -> float:
        return _rate(measured, _bulk(peer, None))

    def ratio(of: Callable[[BulkResult], float]) -> float:
        pairs = zip(*(measured.of(_bulk(peer, None), BulkResult) for peer in (OURS, NIXL)),
                    strict=True)  # fmt: skip
        return median(of(one) / of(other) for one, other in pairs)

    names = {OURS: "ours", NIXL: "NIXL over UCX TCP", IPERF3: "iperf3"}
    for peer, name in names.items():
        if peer != NIXL or has_nixl:
            _says(bench, f"unshaped, 1 MiB, {name}: Gbit/s", "",
                  lambda what, peer=peer: bench.claim(what, rate(peer) / 1e9, "", None))  # type: ignore[misc]  # fmt: skip
    for what, wanted, of, holds in (
        ("goodput", ">= 1", lambda trial: trial.goodput_bps, lambda found: found >= 1),
        ("CPU seconds a GB", "<= 1", lambda trial: trial.cpu_s_per_gb, lambda found: found <= 1),
    ):
        line = f"unshaped, 1 MiB: {what}, ours over NIXL"
        if not has_nixl:
            bench.missing(line, wanted, fabric_nixl.HOW)
            continue

        def claim(line: str, of: Callable[[BulkResult], float] = of, wanted: str = wanted,
                  holds: Callable[[float], bool] = holds) -> None:  # fmt: skip
            found = ratio(of)
            bench.claim(line, found, wanted, holds(found))

        _says(bench, line, wanted, claim)


def _p99_s(measured: Measured, job: Latency, qos: bool = True) -> float:
    trials = measured.of(job, LatencyResult, qos)
    return median(t.round_trips_s[int(0.99 * len(t.round_trips_s))] for t in trials)


def _network_p99_s(measured: Measured, job: Latency, qos: bool = True) -> float:
    trials = measured.of(job, LatencyResult, qos)
    return median(t.networks_s[int(0.99 * len(t.networks_s))] for t in trials)


def _isolation(bench: Bench, measured: Measured) -> None:
    for bps in MODEL_RATES_BPS:
        link = f"{bps / 1e6:g} Mbit/s"

        def idle(what: str, bps: float = bps) -> None:
            bench.claim(what, 1e3 * _p99_s(measured, _latency(bps, 0)), "", None)

        def network(what: str, bps: float = bps) -> None:
            bench.claim(what, 1e3 * _network_p99_s(measured, _latency(bps, 0)), "", None)

        _says(bench, f"{link}: MODEL p99, 4 KB there and back, idle: ms", "", idle)
        _says(bench, f"{link}: of that on the network alone, p99: ms", "", network)
        for senders, who in KV_SENDERS.items():
            _beside_kv(bench, measured, bps, senders, f"{link}, KV of {who}")
        job = _bulk(OURS, bps)
        _says(
            bench,
            f"{link}, MODEL idle: KV over the link",
            ">= 0.99",
            lambda what, job=job, bps=bps: bench.at_least(  # type: ignore[misc]
                what, _rate(measured, job) / bps, 0.99
            ),
        )


def _beside_kv(bench: Bench, measured: Measured, bps: float, senders: int, where: str) -> None:
    job = _latency(bps, senders)

    def on_over_idle(what: str) -> None:
        ratio = _p99_s(measured, job) / _p99_s(measured, _latency(bps, 0))
        bench.claim(what, ratio, "<= 2", ratio <= 2)

    def off_over_on(what: str) -> None:
        bench.at_least(what, _p99_s(measured, job, qos=False) / _p99_s(measured, job), 30)

    def network_off_over_on(what: str) -> None:
        off_s, on_s = (_network_p99_s(measured, job, qos) for qos in (False, True))
        bench.claim(what, off_s / on_s, "", None)

    def kv(what: str) -> None:
        share = median(t.kv_bps for t in measured.of(job, LatencyResult)) / bps
        bench.at_least(what, share, 0.97)

    _says(bench, f"{where}: MODEL p99 over idle", "<= 2", on_over_idle)
    _says(bench, f"{where}: MODEL p99 without classes over with", ">= 30", off_over_on)
    _says(bench, f"{where}: that of the network alone", "", network_off_over_on)
    _says(bench, f"{where}: KV over the link", ">= 0.97", kv)


def _building(bench: Bench) -> None:
    took_s: dict[bool, list[float]] = {True: [], False: []}
    ended_s: list[float] = []
    for stock in (False, True) * 2 + (False,):
        built, end_s = _build(Build(BUILT_HOSTS, stock, BUILT_BPS))
        if built is not None:
            took_s[stock].append(built.took_s)
            if not stock:
                ended_s.append(end_s)
    what = f"{BUILT_HOSTS} hosts, two shaped NICs each"
    if not took_s[False]:
        return bench.missing(f"{what}: built", "", "the private network ended too early; see above")
    bench.claim(f"{what}: seconds to build", median(took_s[False]), "", None)
    faster = f"{what}: times as fast as Mininet's TCLink"
    if took_s[True]:
        bench.at_least(faster, median(took_s[True]) / median(took_s[False]), 3)
    else:
        bench.missing(faster, ">= 3", "Mininet could not build it; it wants iproute2 and bash")
    bench.claim(f"{what}: seconds to end", median(ended_s), "< 0.5", median(ended_s) < 0.5)


def _build(job: Build) -> tuple[Built | None, float]:
    if job.stock and not all(map(shutil.which, ("ip", "tc", "bash"))):
        return None, 0.0
    command = [
        sys.executable,
        "-m",
        "testbed.bench.fabric_build",
        msgspec.json.encode(job).decode(),
    ]
    process = start_private(command, stdout=subprocess.PIPE)
    try:
        line = _line(process)
    finally:
        began_s = time.monotonic()
        process.close()
        end_s = time.monotonic() - began_s
    # The lab's own ends of all links, the bridges and lo: less is not what was asked for.
    built = msgspec.json.decode(line, type=Built) if line else None
    if built is not None and built.interfaces != 2 * job.hosts + 3:
        return None, end_s
    return built, end_s

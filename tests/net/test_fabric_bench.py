"""The labs of the bench: the real transport on shaped links, and two ways to build a network."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

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
from testbed.fabric.private import start_private

Result = BulkResult | LatencyResult | Failed
BPS = 50e6


def lab(*jobs: Bulk | Latency, path: str | None = None) -> list[Result]:
    words = msgspec.json.encode(Lab(3, True, jobs)).decode()
    command = [sys.executable, "-m", "testbed.bench.fabric_lab", words]
    if path is not None:
        command = ["/usr/bin/env", f"PATH={path}", *command]
    with start_private(command, stdout=subprocess.PIPE) as process:
        out, _ = process.popen.communicate(timeout=60)
    decoder = msgspec.json.Decoder(Result)
    return decoder.decode_lines(out)


def test_what_tcp_delivers_is_what_the_nic_counts_and_the_link_allows() -> None:
    (found,) = lab(Bulk("ours", BPS, flows=2, piece_bytes=1 << 16, seconds=1.0))
    assert isinstance(found, BulkResult)
    assert found.goodput_bps == pytest.approx(BPS, rel=0.05)
    assert found.nic_share == pytest.approx(1, abs=0.05)
    assert found.cpu_s_per_gb > 0


def test_messages_come_back_beside_kv_that_fills_the_link() -> None:
    idle, busy = lab(Latency(BPS, 0, 0.01, 0.6), Latency(BPS, 2, 0.01, 0.6))
    assert isinstance(idle, LatencyResult) and isinstance(busy, LatencyResult)
    assert len(idle.round_trips_s) > 5 and idle.kv_bps == 0
    assert len(busy.round_trips_s) > 5 and busy.kv_bps > 0.8 * BPS
    assert busy.round_trips_s == sorted(busy.round_trips_s)
    assert len(busy.networks_s) == len(busy.round_trips_s)
    assert 0 < busy.networks_s[-1] < busy.round_trips_s[-1]


def test_a_missing_program_is_said_and_the_next_job_is_done(tmp_path: Path) -> None:
    missing, found = lab(
        Bulk("iperf3", BPS, seconds=0.3), Bulk("ours", BPS, seconds=0.3), path=str(tmp_path)
    )
    assert isinstance(missing, Failed) and "install the package iperf3" in missing.failed
    assert isinstance(found, BulkResult)


@pytest.mark.parametrize("stock", [False, True])
def test_both_builders_make_the_same_network(stock: bool) -> None:
    words = msgspec.json.encode(Build(3, stock, 1e8)).decode()
    command = [sys.executable, "-m", "testbed.bench.fabric_build", words]
    with start_private(command, stdout=subprocess.PIPE) as process:
        assert process.popen.stdout is not None
        built = msgspec.json.decode(process.popen.stdout.readline(), type=Built)
        process.popen.stdout.close()
    assert built.interfaces == 2 * 3 + 2 + 1 and built.took_s > 0

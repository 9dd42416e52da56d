"""Whole clusters in virtual time: right, exact to the byte, the same every time."""

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from testbed.cli.main import main

ROOT = Path(__file__).parents[2]
SMALL = ("workload.agents=48", "workload.turns=2", "workload.openings=4")


def words(verb: str, experiment: str, runs: Path, *settings: str) -> list[str]:
    path = str(ROOT / "topologies" / experiment)
    found = [verb, path, "--world", "virtual", "--runs", str(runs), "--json"]
    return [*found, *(word for setting in settings for word in ("--set", setting))]


def result_of(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> Any:
    assert main(list(command)) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("experiment", ["1p1d.yaml", "1p2d.yaml", "2p1d.yaml"])
def test_both_policies_are_right_and_every_port_carries_its_closed_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], experiment: str
) -> None:
    command = words("compare", experiment, tmp_path, *SMALL)
    result = result_of(capsys, *command, "--require", "functional")
    assert result["world"] == "virtual"
    assert result["verdict"]["functional"] == "passed"
    for policy in result["policies"].values():
        assert policy["completed_turns"] == 96 and policy["failed_turns"] == 0
        assert policy["tokens_checked"] == policy["tokens_equal"] > 96
        assert policy["persisted_then_hit_blocks"] > 0
        assert policy["turns_per_wall_s"] > 0
        for line in policy["ledger"]:
            assert line["counted_bytes"] == line["expected_bytes"], line["port"]


@pytest.mark.parametrize("settings", [
    ("cluster.gpus_per_node=2", "cluster.folded=false", "cluster.group_nodes=2",
     "engine.prefill_gpu_pool_bytes=40e9", "cluster.storage_hosts=2"),
    ("hardware.dram_buffer_bytes=2e9", "hardware.hbm_kv_bytes_per_gpu=1.4e9",
     "engine.prefill_gpu_pool_bytes=0.7e9"),
    ("scale.token_scale=16", "scale.layers=2"),
    ("qos=false",),
    ("workload.kind=weka", "workload.sessions=6"),
])  # fmt: skip
def test_other_shapes_are_right_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...]
) -> None:
    base = ("workload.agents=24", "workload.turns=2")
    result = result_of(capsys, *words("run", "2p1d.yaml", tmp_path, *base, *settings))
    policy = result["policies"]["dualpath"]
    assert policy["completed_turns"] == 48
    assert policy["tokens_checked"] == policy["tokens_equal"] > 24


def test_collectives_cross_the_links_in_their_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (*SMALL, "cluster.group_nodes=2")
    result = result_of(capsys, *words("run", "2p1d.yaml", tmp_path, *settings))
    sent = result["policies"]["dualpath"]["model_bytes"]
    assert sent["pe0-gpu:cnic"] > 0 and sent["pe0:uplink"] > 0
    assert sent["pe0-buf:pcie"] == sent["store0:snic"] == 0


def digest(folder: Path) -> str:
    (log,) = folder.glob("*/*/events.jsonl")
    return hashlib.sha256(log.read_bytes()).hexdigest()


def test_the_same_seed_gives_the_same_log_byte_for_byte_in_any_process(tmp_path: Path) -> None:
    found = {}
    for name, hash_seed, seed in (("a", "0", "1"), ("b", "4711", "1"), ("c", "0", "2")):
        command = words("run", "1p2d.yaml", tmp_path / name, *SMALL, "workload.spread=0.5")
        subprocess.run(
            [sys.executable, "-m", "testbed.cli.main", *command, "--seed", seed],
            env={**os.environ, "PYTHONHASHSEED": hash_seed}, cwd=ROOT, check=True,
            capture_output=True,
        )  # fmt: skip
        found[name] = digest(tmp_path / name)
    assert found["a"] == found["b"] != found["c"]


def test_half_the_storage_rate_halves_basic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = []
    for number, share in enumerate((0.7, 0.35)):
        settings = ("workload.agents=800", f"hardware.snic_share={share}")
        command = words("run", "1p1d.yaml", tmp_path / str(number), *settings)
        result = result_of(capsys, *command, "--policy", "basic")
        rates.append(result["policies"]["basic"]["throughput_turns_per_s"])
    assert rates[0] / rates[1] == pytest.approx(2.0, rel=0.03)


# A queue of reads says nothing of the memory: `dualpath` finds not quite the best share for it.
@pytest.mark.parametrize(("dram", "policy", "least"), [
    (80e9, "dualpath", 0.85), (40e9, "pe-only", 0.93),
])  # fmt: skip
def test_a_slow_memory_binds_where_its_closed_form_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dram: float, policy: str, least: float
) -> None:
    settings = ("workload.agents=800", f"hardware.dram_bytes_per_s={dram}")
    command = words("run", "1p1d.yaml", tmp_path, *settings)
    found = result_of(capsys, *command, "--policy", policy)["policies"][policy]
    assert found["bound"]["binds"] == "DRAM"
    reached = found["throughput_turns_per_s"] / found["bound"]["turns_per_s"]
    assert least < reached < 1.01


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_ends_it_at_once_in_one_line(tmp_path: Path, times: int) -> None:
    command = words("run", "2p4d-27b.yaml", tmp_path, "workload.turns=40")  # for half a minute
    with subprocess.Popen(
        [sys.executable, "-m", "testbed.cli.main", *command], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        folder = tmp_path / "2p4d-27b-1" / "dualpath"  # made when the world begins
        end = time.monotonic() + 60
        while not folder.exists() and time.monotonic() < end:
            time.sleep(0.02)  # the period of a poll with a deadline
        for _ in range(times):
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted" and "Traceback" not in err


def test_a_deadline_that_is_missed_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("workload.agents=12", "engine.deadline_s=3")
    assert main(words("run", "1p1d.yaml", tmp_path, *settings)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("testbed: policy dualpath: the virtual world stopped: at 4 s")


def test_results_that_can_go_nowhere_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(words("run", "1p1d.yaml", tmp_path / "file", *SMALL)) == 2
    assert "choose another one" in capsys.readouterr().err.splitlines()[-1]


def test_time_has_no_scale_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words("run", "1p1d.yaml", tmp_path / "runs"), "--time-scale", "2"]) == 2
    assert "--time-scale" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_terminal_shows_progress_and_the_picture(tmp_path: Path) -> None:
    command = [word for word in words("run", "1p1d.yaml", tmp_path, *SMALL) if word != "--json"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "testbed.cli.main", *command], cwd=ROOT,
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 65536):
                seen += part
        except OSError:
            pass  # Linux says EIO when the last writer has left
        os.close(ours)
    assert process.returncode == 0, seen.decode()
    assert b"96/96 turns" in seen and b"functional" in seen

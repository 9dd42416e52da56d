"""What a killed or failing run leaves behind, and what bad input creates: nothing."""

import signal
import subprocess
from pathlib import Path

import pytest
from cluster import ROOT, SMALL, TESTBED, alive, arguments, call, descendants, environment, wait_for

GONE_WITHIN_S = 1.0


def outside(tmp_path: Path) -> set[str]:
    """Files of the temporary folder beside the run's and the cache."""
    return {entry.name for entry in tmp_path.iterdir()} - {"runs", "cache"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_no_process_within_a_second(
    tmp_path: Path, how: signal.Signals
) -> None:
    runs = tmp_path / "runs"
    words = arguments("run", "1p1d.yaml", runs, "workload.agents=200")
    with subprocess.Popen(
        words, env=environment(tmp_path / "cache"), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            wait_for(lambda: filled_segment(runs), 60, "the start of the hosts")
            wait_for(lambda: len(descendants(process.pid)) > 6, 10, "the fork of the hosts")
            below = descendants(process.pid)
            process.send_signal(how)
            if how is not signal.SIGKILL:
                assert process.wait(10) == 130
                assert filled_segment(runs) is None
            process.wait(10)
            wait_for(lambda: not alive(below), GONE_WITHIN_S, "the end of every process")
        finally:
            process.kill()
    assert outside(tmp_path) == set()


def filled_segment(runs: Path) -> Path | None:
    """The store's first file, once the openings are in it."""
    for segment in runs.glob("*/*/store/store0/segment-*"):
        if segment.stat().st_size > 1_000_000:
            return segment
    return None


def test_a_flipped_byte_in_storage_fails_its_turns_and_nothing_else(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = arguments("run", "1p1d.yaml", runs, *SMALL, "workload.mid_decode=0")
    with subprocess.Popen(
        words, env=environment(tmp_path / "cache"), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            wait_for(lambda: filled_segment(runs), 60, "the openings' arrival in storage")
            segment = filled_segment(runs)
            assert segment is not None
            with segment.open("r+b") as data:
                byte = data.read(1)
                data.seek(0)
                data.write(bytes([byte[0] ^ 1]))
            out, err = process.communicate(timeout=280)
        finally:
            process.kill()
    assert process.returncode == 1, err
    assert '"functional": "failed"' in out
    assert "digest" in out
    assert '"tokens_equal": 0' not in out


BAD = [
    ("cluster.prefil_nodes=1", "prefill_nodes"),
    ("cluster.gpus_per_node=0", "gpus_per_node"),
    ("hardware.snic_bytes_per_s=-1", "snic_bytes_per_s"),
    ("workload.agents=many", "agents"),
    ("scale.token_scale=48", "token_scale"),
]


@pytest.mark.parametrize(("setting", "named"), BAD)
def test_bad_input_ends_with_one_message_and_creates_nothing(
    tmp_path: Path, setting: str, named: str
) -> None:
    runs = tmp_path / "runs"
    ended = subprocess.run(
        arguments("compare", "1p1d.yaml", runs, setting), capture_output=True, text=True,
        env=environment(tmp_path / "cache"), timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert named in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_unknown_policy_is_bad_input_and_names_the_nearest(tmp_path: Path) -> None:
    words = [*TESTBED, "run", str(ROOT / "topologies/1p1d.yaml"), "--policy", "dualpaht"]
    ended = subprocess.run(
        [*words, "--runs", str(tmp_path / "runs")], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "dualpath" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_real_sessions_run_right_and_their_contexts_diverge(tmp_path: Path) -> None:
    words = arguments(
        "run", "weka.yaml", tmp_path / "runs", "workload.agents=24", "workload.turns=2"
    )
    result = call(words, tmp_path / "cache")
    policy = result["policies"]["dualpath"]
    assert policy["completed_turns"] == 48
    assert policy["tokens_checked"] == policy["tokens_equal"] > 0

"""The scheduler of the emulated world: ours decides as recorded, and another process may decide."""

import gzip
import signal
import subprocess
from pathlib import Path
from typing import Any

from cluster import ROOT, TESTBED, alive, arguments, call, descendants, wait_for

from testbed.cli.main import main

FEW = ("workload.agents=12", "workload.turns=2", "workload.openings=4")


def words(runs: Path, *more: str) -> list[str]:
    return [*arguments("run", "1p1d.yaml", runs, *FEW), "--require", "functional", *more]


def require_right(result: Any) -> None:
    (found,) = result["policies"].values()
    assert found["completed_turns"] == 24 and found["failed_turns"] == 0
    assert found["tokens_checked"] == found["tokens_equal"] > 24


def log_of(runs: Path, policy: str) -> Path:
    return runs / "1p1d-1" / policy / "scheduler.jsonl.gz"


def test_our_scheduler_decides_in_a_replay_what_it_decided_on_the_emulated_cluster(
    tmp_path: Path,
) -> None:
    require_right(call(words(tmp_path), tmp_path / "cache"))
    log = log_of(tmp_path, "dualpath")
    assert gzip.decompress(log.read_bytes()).count(b'"decided"') > 1
    assert main(["decide", "--replay", str(log), "--check"]) == 0


def test_a_process_decides_for_the_emulated_cluster(tmp_path: Path) -> None:
    script = ROOT / "docs" / "examples" / "scheduler.py"
    process = ("--scheduler-cmd", f"python3 {script}")
    require_right(call(words(tmp_path, *process), tmp_path / "cache"))
    log = log_of(tmp_path, script.name)
    assert main(["decide", "--replay", str(log), "--check", *process]) == 0


def test_one_that_listens_outside_is_reached_from_inside(tmp_path: Path) -> None:
    door = tmp_path / "door"
    command = [*TESTBED, "scheduler", "--listen", str(door)]
    with subprocess.Popen(command, cwd=ROOT) as outside:
        try:
            wait_for(door.exists, 30, "the socket's bind")
            result = call(words(tmp_path, "--scheduler", f"unix:{door}"), tmp_path / "cache")
        finally:
            outside.send_signal(signal.SIGINT)
    require_right(result)


# Answers nothing but `hello`, and minds no signal.
SILENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.stdin.readline()
print('{"type":"ready","version":1,"traits":{"layerwise":true}}', flush=True)
time.sleep(600 if sys.stdin.readline() else 0)
"""


def test_one_that_says_nothing_ends_the_run_and_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "silent.py"
    script.write_text(SILENT)
    more = ("--scheduler-cmd", f"python3 {script}", "--set", "engine.scheduler_deadline_s=2")
    with subprocess.Popen(
        words(tmp_path / "runs", *more), stderr=subprocess.PIPE, text=True
    ) as run:
        seen: set[int] = set()

        def ended() -> bool:
            seen.update(descendants(run.pid))
            return run.poll() is not None

        wait_for(ended, 120, "the end of the run")
        assert run.stderr is not None
        said = run.stderr.read().splitlines()[-1]
    assert run.returncode == 1
    assert "policy silent.py" in said and "did not answer within 2 s" in said
    wait_for(lambda: not alive(seen), 20, "the end of all processes")

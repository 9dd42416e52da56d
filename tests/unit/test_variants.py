"""Variants on processes: what one raises or dies of is its own, and nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import pytest

from engines.modelled.compute import PacedCompute
from testbed import variants
from testbed.errors import RunFailed
from testbed.policies import choose_one
from testbed.session import EMULATED
from testbed.spec import load_experiment
from testbed.variants import Played, Variant, play_variants

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"


def variant(agents: int, *settings: str) -> Variant:
    small = (f"workload.agents={agents}", "workload.turns=1", "scale.time_scale=1")
    return Variant(load_experiment(FILE, [*small, *settings]), "1p1d", choose_one("dualpath"))


LONG = ("workload.agents=2000", "workload.turns=9")  # minutes


def play(found: dict[int, Variant], scratch: Path) -> dict[int, Played | Exception]:
    told: dict[int, Played | Exception] = {}
    play_variants(found, 2, scratch, told.__setitem__)
    return told


def test_each_is_told_and_one_that_fails_is_the_only_one(tmp_path: Path) -> None:
    late = variant(9, "engine.deadline_s=1")
    told = play({5: variant(5), 9: late, 7: variant(7)}, tmp_path)
    assert sorted(told) == [5, 7, 9]
    for agents in (5, 7):
        found = told[agents]
        assert isinstance(found, Played) and found.result.completed_turns == agents
    assert isinstance(told[9], RunFailed) and "the virtual world stopped" in str(told[9])
    assert not list(tmp_path.iterdir()) and not active_children()


def when_busy(act: Callable[[], None]) -> Callable[[int, Played | Exception], None]:
    """Act as soon as the first variant is told: the others are under way then."""
    acted: list[int] = []

    def ended(key: int, _: Played | Exception) -> None:
        if not acted:
            acted.append(key)
            act()

    return ended


def test_a_killed_worker_fails_its_variant_alone(tmp_path: Path) -> None:
    told: dict[int, Played | Exception] = {}

    def kill_the_busy() -> None:
        worker = max(active_children(), key=lambda child: child.pid or 0)
        os.kill(worker.pid or 0, signal.SIGKILL)

    watch = when_busy(kill_the_busy)

    def ended(key: int, found: Played | Exception) -> None:
        told[key] = found
        watch(key, found)

    found = {1: variant(3), 2: variant(3, *LONG), 3: variant(4)}
    play_variants(found, 2, tmp_path, ended)
    assert isinstance(told[1], Played) and isinstance(told[3], Played)
    assert isinstance(told[2], RunFailed) and "process was killed" in str(told[2])


def test_what_the_listener_raises_ends_everything_at_once(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    found = {1: variant(3), 2: variant(3, *LONG), 3: variant(3, *LONG)}
    with pytest.raises(KeyboardInterrupt):
        play_variants(found, 2, tmp_path, when_busy(stop))
    assert not active_children()


def test_a_bug_is_told_as_it_is_and_out_of_its_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no time")

    monkeypatch.setattr(PacedCompute, "__init__", broken)
    told = variants._attempt(variant(3), tmp_path)
    assert isinstance(told, ZeroDivisionError) and str(told) == "no time"


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    class Local(Exception):
        """Has no name that another process could find."""

    told = variants._sendable(Local("what happened"))
    assert isinstance(told, RuntimeError) and str(told) == "Local: what happened"


def test_the_emulated_world_is_played_here_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []

    def here(found: Variant, _: Path) -> Played:
        played.append(found.experiment.workload.agents)
        raise RunFailed("not here")

    monkeypatch.setattr(variants, "play_variant", here)
    found = {n: Variant(variant(n).experiment, "x", choose_one("basic"), EMULATED) for n in (3, 4)}
    told = play(found, tmp_path)
    assert played == [3, 4] and all(isinstance(told[n], RunFailed) for n in (3, 4))


PARENT = """
import sys
from multiprocessing import active_children
from pathlib import Path
from test_variants import LONG, variant
from testbed.variants import play_variants

def ended(key, found):
    print(*(child.pid for child in active_children()), flush=True)

if __name__ == "__main__":
    found = {1: variant(3), 2: variant(3, *LONG), 3: variant(3, *LONG)}
    play_variants(found, 2, Path(sys.argv[1]), ended)
"""


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    paths = os.pathsep.join(map(str, (Path(__file__).parent, FILE.parents[1])))
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), str(scratch)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) == 2 and all(map(is_running, workers))
        process.kill()
    end = time.monotonic() + 30
    while any(map(is_running, workers)) or scratch.exists():
        assert time.monotonic() < end, "workers play on for nobody, or left what they wrote"
        time.sleep(0.02)  # the period of a poll with a deadline

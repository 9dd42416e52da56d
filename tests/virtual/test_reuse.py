"""`compare` plays what changed, and takes the rest from runs that are finished and right."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testbed import content, session
from testbed.cli.main import main
from testbed.results.schema import Comparison, Verdict
from testbed.reuse import RECORD, reuse

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"
SMALL = ("--set", "workload.agents=6", "--set", "workload.turns=1", "--set", "workload.openings=2")
MINE = """
from scheduler.policies.dualpath import DualPath


class Mine(DualPath):
    pass
"""


class Bench:
    """A folder for runs and a policy of one's own; counts what is played."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.runs, self.mine = folder / "runs", folder / "mine.py"
        self.mine.write_text(MINE)
        self.played: list[str] = []
        self._capsys = capsys

    def compare(self, *more: str, verb: str = "compare", policies: str = "") -> Comparison:
        policies = policies or f"basic,{self.mine}:Mine"
        words = [verb, str(FILE), "--world", "virtual", "--require", "functional", "--json", *SMALL]
        words += ["--runs", str(self.runs), "--policies" if verb == "compare" else "--policy"]
        self.played.clear()
        assert main([*words, policies, *more]) == 0
        return msgspec.json.decode(self._capsys.readouterr().out, type=Comparison)


@pytest.fixture
def bench(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    bench = Bench(tmp_path, capsys)
    play_one = session._play_one

    def counted(experiment: Any, workload: Any, layout: Any, *more: Any) -> Any:
        bench.played.append(layout.chosen.name)
        return play_one(experiment, workload, layout, *more)

    monkeypatch.setattr(session, "_play_one", counted)
    return bench


def test_only_the_edited_policy_is_played_again(bench: Bench) -> None:
    first = bench.compare()
    assert bench.played == ["basic", "Mine"] and first.reused == {}
    again = bench.compare()
    assert bench.played == []
    assert again.policies == first.policies and again.speedup == first.speedup
    assert again.reused == {name: f"{first.folder}/{name}" for name in ("basic", "Mine")}
    bench.mine.write_text(MINE.replace("pass", "spare = 1"))
    edited = bench.compare()
    assert bench.played == ["Mine"] and list(edited.reused) == ["basic"]
    assert list(edited.policies) == ["basic", "Mine"]  # in the order asked for
    bench.compare("--fresh")
    assert bench.played == ["basic", "Mine"]


def test_a_comparison_that_reuses_stands_for_itself(bench: Bench) -> None:
    first = bench.compare()
    again = bench.compare()
    shutil.rmtree(first.folder)
    for name in ("basic", "Mine"):
        assert (Path(again.folder) / name / "events.jsonl").stat().st_size
    assert (Path(again.folder) / "Mine" / "mine.py").read_text() == MINE
    saved = json.loads((Path(again.folder) / "result.json").read_text())
    assert saved["reused"] == again.reused
    bench.compare()
    assert bench.played == ["basic", "Mine"]  # copies stand for nobody: the run itself is gone


def test_a_run_is_reused_but_never_reuses(bench: Bench) -> None:
    bench.compare(verb="run", policies="basic")
    assert bench.compare().reused.keys() == {"basic"}
    bench.compare(verb="run", policies="basic")
    assert bench.played == ["basic"]


@pytest.mark.parametrize("more", [("--seed", "1"), ("--set", "hardware.snic_share=0.5")])
def test_another_experiment_is_played(bench: Bench, more: tuple[str, ...]) -> None:
    bench.compare()
    assert bench.compare(*more).reused == {}


def test_other_code_is_played(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.compare()
    monkeypatch.setattr(content, "code_digest", lambda: "other code")
    assert bench.compare().reused == {}


def test_a_policy_against_itself_is_played_twice(bench: Bench) -> None:
    other = bench.mine.with_name("other.py")
    other.write_text(MINE)
    found = bench.compare(policies=f"{bench.mine}:Mine,{other}:Mine")
    assert len(bench.played) == 2 and found.reused == {}


def test_what_is_not_finished_is_not_reused(bench: Bench) -> None:
    first = bench.compare()
    folder = Path(first.folder)
    (record,) = folder.glob(f"basic/{RECORD}*")
    raw = record.read_bytes()
    for broken in (raw[: len(raw) // 2], b"", b"{}", raw.replace(b'"passed"', b'"p\xffssed"')):
        record.write_bytes(broken)
        assert list(bench.compare().reused) == ["Mine"]
        _forget(bench.runs, but=folder)
    record.write_bytes(raw)
    (folder / "basic" / "events.jsonl").unlink()  # somebody is removing the folder
    found = bench.compare()
    assert list(found.reused) == ["Mine"]
    assert (Path(found.folder) / "basic" / "events.jsonl").exists()


def _forget(runs: Path, but: Path) -> None:
    for folder in runs.iterdir():
        if folder != but:
            shutil.rmtree(folder)


def test_what_was_wrong_or_cannot_be_trusted_is_not_reused(bench: Bench, tmp_path: Path) -> None:
    folder = Path(bench.compare().folder)
    (record,) = folder.glob(f"basic/{RECORD}*")
    digest = record.stem.removeprefix(RECORD)
    said = json.loads(record.read_bytes())
    for functional, timing, real_time, stands in (
        ("passed", "inconclusive", False, True), ("passed", "inconclusive", True, False),
        ("passed", "faithful", True, True), ("failed", "faithful", False, False),
        ("inconclusive", "faithful", False, False),
    ):  # fmt: skip
        said["verdict"] = msgspec.to_builtins(Verdict(functional, timing, ()))
        record.write_text(json.dumps(said))
        into = tmp_path / f"{functional}-{timing}-{real_time}"
        assert (reuse(bench.runs, digest, real_time, into) is not None) is stands
        assert into.exists() is stands


def test_two_at_once_and_a_clean_after_them(bench: Bench) -> None:
    first = bench.compare()
    words = [sys.executable, "-m", "testbed.cli.main", "compare", str(FILE), "--world", "virtual"]
    words += ["--require", "functional", "--runs", str(bench.runs), "--json", *SMALL]
    started = [
        subprocess.Popen([*words, "--policies", "dualpath,basic"], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    told = [msgspec.json.decode(process.communicate()[0], type=Comparison) for process in started]
    assert len({comparison.folder for comparison in told}) == 2
    for comparison in told:
        assert comparison.reused["basic"] == f"{first.folder}/basic"
        assert comparison.policies["basic"] == first.policies["basic"]
    assert main(["clean", "--runs", str(bench.runs)]) == 0
    bench._capsys.readouterr()
    assert bench.compare().reused == {}

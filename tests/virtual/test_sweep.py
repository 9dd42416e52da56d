"""Sweeps by their command: whole tables, whatever stops them in between."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from testbed.cli.main import main
from testbed.sweep import play
from testbed.sweep.play import Measured
from testbed.sweep.table import EARLIER, TABLE

ROOT = Path(__file__).parents[2]
GRID = """
experiment: 1p1d.yaml
shapes: [1P1D, 1P2D]
loads: [12, 24]
seeds: [0, 1]
set:
  scale.layers: [1]
"""
POINTS = 2 * 2 * 2 * 2  # policies, shapes, loads, seeds
Line = dict[str, Any]


def words(tmp_path: Path, text: str = GRID, runs: str = "runs") -> list[str]:
    grid = tmp_path / "grid.yaml"
    grid.write_text(text)
    return ["sweep", str(grid), "--runs", str(tmp_path / runs), "--processes", "2"]


def table(tmp_path: Path, runs: str = "runs", file: str = TABLE) -> list[Line]:
    path = tmp_path / runs / "grid-sweep" / file
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def timeless(lines: Sequence[Line]) -> list[Line]:
    return [{key: value for key, value in line.items() if key != "wall_s"} for line in lines]


def interrupted_by(number: int, command: list[str], tmp_path: Path) -> tuple[int, str]:
    """Exit code and stderr of a sweep that gets a signal when it has two points."""
    with subprocess.Popen(
        [sys.executable, "-m", "testbed.cli.main", *command], cwd=ROOT, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        end = time.monotonic() + 60
        while len(table(tmp_path)) < 2 and time.monotonic() < end:
            time.sleep(0.005)  # the period of a poll with a deadline
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    return process.returncode, err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_goes_on_and_plays_no_point_twice(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, err = interrupted_by(number, words(tmp_path), tmp_path)
    if number == signal.SIGKILL:
        assert code == -number
    else:
        assert code == 130 and "run the same command to go on" in err and "Traceback" not in err
    before = table(tmp_path)
    assert 2 <= len(before) < POINTS
    played: list[str] = []

    def watched(variants: dict[str, object], *rest: Any) -> None:
        played.extend(variants)
        play_variants(variants, *rest)

    play_variants: Any = play.play_variants
    monkeypatch.setattr(play, "play_variants", watched)
    assert main(words(tmp_path)) == 0
    assert len(played) == POINTS - len(before)
    assert not set(played) & {line["key"] for line in before}
    after = table(tmp_path)
    assert {line["key"] for line in after} == set(played) | {line["key"] for line in before}
    for line in before:
        assert line in after  # to the real second
    assert not list((tmp_path / "runs" / "grid-sweep").glob("playing-*"))
    assert main(words(tmp_path, runs="whole")) == 0
    assert timeless(after) == timeless(table(tmp_path, "whole"))


def test_json_is_the_table_alone_in_the_order_of_the_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(text) for text in out.splitlines()]
    assert lines == table(tmp_path) and len(lines) == POINTS
    assert [line["agents"] for line in lines[:8]] == [12] * 4 + [24] * 4
    assert [line["policy"] for line in lines[:3]] == ["basic", "dualpath", "basic"]
    for line in lines:
        assert set(line) == {
            "shape", "prefill_nodes", "decode_nodes", "policy", "agents", "aps", "seed",
            "scale.layers", "key", *Measured.__struct_fields__,
        }  # fmt: skip
        assert line["functional"] == "passed" and line["error"] is None and line["slo_ok"]
        assert line["completed_turns"] == 2 * line["agents"] and line["failed_turns"] == 0
        assert line["turns_per_s"] > 0 and line["wall_s"] > 0
    assert f"0 of {POINTS} points were there before" in err


def test_a_changed_grid_plays_only_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = GRID.replace("[12, 24]", "[12]").replace("[0, 1]", "[0]")
    assert main(words(tmp_path, small)) == 0
    first = table(tmp_path)
    other = small.replace("[12]", "[24]")
    assert main(words(tmp_path, other)) == 0
    assert [line["agents"] for line in table(tmp_path)] == [24] * 4
    assert table(tmp_path, file=EARLIER) == first
    capsys.readouterr()
    both = small.replace("[12]", "[12, 24]")
    assert main(words(tmp_path, both)) == 0
    assert "8 of 8 points were there before" in capsys.readouterr().err
    assert len(table(tmp_path)) == 8 and all(line in table(tmp_path) for line in first)
    assert not table(tmp_path, file=EARLIER)


def test_a_point_that_fails_has_a_line_and_the_sweep_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "experiment: 1p1d.yaml\nloads: [12]\nset: {engine.deadline_s: [3, 600]}\n"
    for _ in range(2):
        assert main(words(tmp_path, text)) == 1
        out, err = capsys.readouterr()
        lines = table(tmp_path)
        assert [line["engine.deadline_s"] for line in lines] == [3, 3, 600, 600]
        for line in lines[:2]:
            assert line["error"].startswith("RunFailed: policy") and line["turns_per_s"] is None
        assert all(line["error"] is None and line["turns_per_s"] > 0 for line in lines[2:])
        assert err.count("failed: 1P1D, ") == 2 and out.count("basic") == 1
    assert "2 of 4 points were there before" in err


def test_bad_input_is_one_line_and_creates_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (["--set", "workload.turns=0"], ["--name", "../elsewhere"]):
        assert main([*words(tmp_path), *more]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["grid.yaml"]


def test_timing_is_a_verdict_that_can_be_required(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(tmp_path, "experiment: 1p1d.yaml\nloads: [12]\npolicies: [basic]\n")
    assert main([*command, "--require", "timing"]) == 3
    out, err = capsys.readouterr()
    assert "inconclusive (~): the times of 1 points" in err and " ~ " in out


def test_a_sweep_leaves_a_picture_and_clean_removes_it(tmp_path: Path) -> None:
    assert main(words(tmp_path, "experiment: 1p1d.yaml\nloads: [3]\npolicies: [basic]\n")) == 0
    assert (tmp_path / "runs" / "grid-sweep" / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["clean", "--runs", str(tmp_path / "runs")]) == 0
    assert not list((tmp_path / "runs").iterdir())

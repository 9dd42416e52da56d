"""`compare --seeds`: which seeds, what is paired with what, and what it says of no difference."""

import json
from pathlib import Path

import pytest

from testbed.cli.main import main
from testbed.errors import InputError, RunFailed
from testbed.results.schema import Verdict
from testbed.results.verdict import FAITHFUL, INCONCLUSIVE, PASSED
from testbed.seeds import (
    BETTER,
    SAME,
    UNKNOWN,
    WORSE,
    Figures,
    _figures,
    _joined,
    gain,
    gains,
    labelled,
    notes,
    seeds_of,
)

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"
FINE = Verdict(PASSED, FAITHFUL, ())
SMALL = ["--world", "virtual", "--set", "workload.agents=12", "--set", "workload.turns=1"]


def test_a_number_counts_on_from_the_first_and_a_list_is_taken_as_it_is() -> None:
    assert seeds_of("3", 7) == (7, 8, 9)
    assert seeds_of("9,3", 7) == (9, 3)


@pytest.mark.parametrize(("asked", "words"), [
    ("0", "needs at least 2"), ("1", "needs at least 2"), ("-4", "needs at least 2"),
    ("3,", "neither a number nor a list"), ("many", "neither a number nor a list"),
    ("3,3", "names a seed twice"), ("1001", "more than 1000"),
    ("3,-1", "has seed -1; a seed is between 0 and 4294967295"), ("3,4294967296", "has seed 4294"),
])  # fmt: skip
def test_seeds_that_tell_nothing(asked: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        seeds_of(asked, 0)


def test_the_same_policy_twice_has_two_labels() -> None:
    found = labelled(["basic", "dualpath", "basic"])
    assert list(found) == ["basic", "dualpath", "basic (2)"]
    assert found["basic (2)"] is found["basic"] is not found["dualpath"]


def test_readings() -> None:
    assert gain([2.0, 2.1], [1.0, 1.0]).reading == BETTER
    assert gain([1.0, 1.0], [2.0, 2.1]).reading == WORSE
    assert gain([1.0, 1.1], [1.05, 1.0]).reading == SAME
    nothing = gain([0.0, 1.0], [1.0, 1.0])
    assert nothing.interval is None and nothing.reading == UNKNOWN


def test_pairs_are_of_one_seed_and_times_are_turned_round() -> None:
    runs = {
        ("a", 1): Figures("a", 1, 10.0, 4.0, 40.0, FINE),
        ("b", 1): Figures("b", 1, 20.0, 2.0, 40.0, FINE),
        ("a", 2): Figures("a", 2, 100.0, 8.0, 10.0, FINE),
        ("b", 2): Figures("b", 2, 200.0, 4.0, 10.0, FINE),
    }
    found = gains(["a", "b"], (1, 2), runs)["b"]
    assert found.throughput.interval and found.ttft.interval
    assert found.throughput.interval.low == pytest.approx(2.0)
    assert found.ttft.interval.high == pytest.approx(2.0)
    assert (found.throughput.reading, found.jct.reading) == (BETTER, SAME)


def test_a_cause_that_seeds_share_is_told_once() -> None:
    doubt = Verdict(PASSED, INCONCLUSIVE, ("basic: too short",))
    runs = {
        ("basic", 1): Figures("basic", 1, 1.0, 1.0, 1.0, doubt),
        ("basic", 2): Figures("basic", 2, 1.0, 1.0, 1.0, doubt),
        ("basic (2)", 2): Figures("basic (2)", 2, 1.0, 1.0, 1.0, FINE),
    }
    found = _joined(labelled(["basic", "basic"]), runs)
    assert found == Verdict(PASSED, INCONCLUSIVE, ("seed 1, 2: basic: too short",))


def test_seeds_that_change_nothing_are_noted() -> None:
    same = {(label, seed): Figures(label, seed, 1.0, 1.0, 1.0, FINE)
            for label in "ab" for seed in (1, 2)}  # fmt: skip
    assert "every seed gave the same figures" in notes(same)[0]
    same["b", 2] = Figures("b", 2, 1.0, 1.0, 1.1, FINE)
    assert notes(same) == ()


def test_a_run_that_does_not_end_is_named() -> None:
    with pytest.raises(RunFailed, match="basic on seed 4: stopped"):
        _figures(("basic", 4), RunFailed("stopped"))


def test_a_policy_against_itself_makes_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = ["--policies", "dualpath,dualpath,basic", "--seeds", "3,7", "--runs", str(tmp_path)]
    spread = ["--set", "workload.spread=0.3"]
    words = ["compare", str(FILE), *SMALL, *spread, *twice, "--require", "functional"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    one = {"ratio": 1.0, "low": 1.0, "high": 1.0}
    for what in ("throughput", "ttft", "jct"):
        assert told["gains"]["dualpath (2)"][what] == {"interval": one, "reading": SAME}
    assert told["gains"]["basic"]["ttft"]["interval"]["ratio"] != 1.0
    assert [(run["policy"], run["seed"]) for run in told["figures"]] == [
        (policy, seed) for seed in (3, 7) for policy in ("dualpath", "dualpath (2)", "basic")
    ]
    assert told["notes"] == []
    assert told["figures"][0]["ttft_s"] != told["figures"][3]["ttft_s"]
    left = [path.name for path in (tmp_path / "1p1d-seeds-1").iterdir()]
    assert sorted(left) == [".testbed-run", "experiment.yaml", "result.json"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "1.000x  1.000 to 1.000  no difference" in out


@pytest.mark.parametrize(("more", "words"), [
    (["--seeds", "1"], "needs at least 2"),
    (["--seeds", "2", "--policies", "dualpth"], "dualpath"),
    (["--seeds", "2", "--policies", ","], "names none"),
    (["--seeds", "2,3", "--seed", "4"], "--seed says nothing"),
    (["--seeds", "2", "--set", "hardware.dram_buffer_bytes=1e8"], "dram_buffer_bytes holds"),
])  # fmt: skip
def test_bad_input_leaves_nothing(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert main(["compare", str(FILE), *SMALL, *more, "--runs", str(runs)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not runs.exists()

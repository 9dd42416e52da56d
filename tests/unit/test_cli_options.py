"""Options of run and compare, and the exit codes that their verdicts give."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from test_picture import comparison

from testbed.cli import options
from testbed.cli.main import main
from testbed.cli.options import load
from testbed.errors import InputError
from testbed.results.schema import Comparison, Verdict
from testbed.session import VIRTUAL
from testbed.spec_workload import FixedWorkload, WekaWorkload

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"

ROOT = Path(__file__).parents[2]


def with_verdict(functional: str, timing: str) -> Comparison:
    return comparison(Verdict(functional, timing, ()))


@pytest.mark.parametrize(("functional", "timing", "require", "code"), [
    ("passed", "faithful", "functional", 0),
    ("passed", "faithful", "timing", 0),
    ("passed", "inconclusive", "functional", 0),
    ("passed", "inconclusive", "timing", 3),
    ("failed", "faithful", "functional", 1),
    ("failed", "faithful", "timing", 1),
    ("failed", "inconclusive", "timing", 1),
])  # fmt: skip
def test_exit_codes(functional: str, timing: str, require: str, code: int) -> None:
    assert options.exit_code(with_verdict(functional, timing).verdict, require) == code


def test_options_become_overrides_and_win_over_the_file() -> None:
    experiment, workload = options.load(FILE, 7, 3.5, None, ("workload.agents=6",))
    assert (experiment.seed, experiment.scale.time_scale) == (7, 3.5)
    assert isinstance(experiment.workload, FixedWorkload)
    assert len(workload.agents) == 6


def test_without_options_the_file_speaks() -> None:
    experiment, workload = options.load(FILE, None, None, None, ())
    assert (experiment.seed, experiment.scale.time_scale) == (0, 2.0)
    assert len(workload.agents) == 900


def test_another_kind_of_workload() -> None:
    experiment, workload = options.load(FILE, None, None, "weka", ("workload.agents=30",))
    assert isinstance(experiment.workload, WekaWorkload)
    assert len(workload.agents) == 30


def test_arrivals_are_an_option_of_every_kind() -> None:
    for kind in ("fixed", "weka", "replay"):
        settings = ("workload.agents=30",)
        experiment, workload = options.load(FILE, None, None, kind, settings, aps=0.5)
        assert experiment.workload.aps == 0.5
        assert workload.agents[29].start_s > workload.agents[0].start_s > 0


@pytest.mark.parametrize("aps", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_rates_of_arrival_that_are_none(aps: float) -> None:
    with pytest.raises(
        InputError, match=r"workload\.aps is .*; it must be a number at least 0\.001"
    ):
        options.load(FILE, None, None, None, (), aps=aps)


def test_virtual_time_is_target_time() -> None:
    experiment, _ = options.load(FILE, None, None, None, (), "virtual")
    assert experiment.scale.time_scale == 1.0
    with pytest.raises(InputError, match="--time-scale says nothing"):
        options.load(FILE, None, 2.0, None, (), "virtual")


def test_a_bad_value_is_an_input_error() -> None:
    with pytest.raises(InputError, match="time_scale"):
        options.load(FILE, None, 0.0, None, ())


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Calls of `play`, which returns an inconclusive comparison at once."""
    calls: list[tuple[object, ...]] = []

    def play(*args: object) -> Comparison:
        calls.append(args)
        progress = args[5]
        assert callable(progress)
        progress("dualpath", "running", 3, 10)
        return with_verdict("passed", "inconclusive")

    monkeypatch.setattr(options, "play", play)
    return calls


def tell(as_json: bool, require: str = "functional") -> int:
    asked = options.Asked(
        experiment=FILE, settings=("workload.agents=6",), require=require, as_json=as_json
    )
    return options.play_and_tell(asked, ["basic", "dualpath"])


def test_json_goes_to_stdout_alone_and_holds_the_whole_result(
    played: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell(as_json=True, require="timing") == 3
    out, _ = capsys.readouterr()
    found = json.loads(out)
    assert found["speedup"] == {"basic": 1.0, "dualpath": 2.0}
    assert set(found["policies"]["basic"]) == set(comparison().policies["basic"].__struct_fields__)
    assert played[0][1:2] == ("1p1d",) and [p.name for p in played[0][3]] == ["basic", "dualpath"]


def test_the_picture_goes_to_stdout(
    played: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell(as_json=False) == 0
    out, _ = capsys.readouterr()
    assert "timing: inconclusive" in out and "{" not in out


@pytest.mark.parametrize("policies", [[], ["basic", "basic"], ["dualpth"]])
def test_bad_policies_are_refused_before_anything_runs(
    played: list[tuple[object, ...]], policies: list[str]
) -> None:
    asked = options.Asked(experiment=FILE, settings=("workload.agents=6",))
    with pytest.raises(InputError):
        options.play_and_tell(asked, policies)
    assert not played


@pytest.mark.parametrize("key", ["prefill_nodes", "decode_nodes"])
def test_a_cluster_too_large_to_be_emulated_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    words = ["run", str(FILE), "--set", f"cluster.{key}=101", "--runs", str(tmp_path / "runs")]
    assert main([*words, "--set", "workload.agents=6"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"testbed: cluster.{key} is 101, and the emulated world takes 100: choose fewer, or play "
        "in virtual time: --world virtual"
    ]
    assert not (tmp_path / "runs").exists()


def test_a_command_has_all_options_and_its_own_default_verdict() -> None:
    found: list[options.Asked] = []

    @click.command()
    @options.experiment_options(require="timing")
    def command(asked: options.Asked) -> None:
        found.append(asked)

    words = ["x.yaml", "--seed", "3", "--set", "a=1", "--set", "b=2", "--aps", "2", "--json"]
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    assert found == [options.Asked(
        experiment=Path("x.yaml"), seed=3, time_scale=None, world="emulated",
        workload=None, aps=2.0,
        settings=("a=1", "b=2"), require="timing", runs=Path("runs"), as_json=True,
    )]  # fmt: skip
    assert CliRunner().invoke(command, ["x.yaml", "--require", "luck"]).exit_code == 2


def test_the_virtual_world_takes_no_time_scale_however_it_is_given() -> None:
    with pytest.raises(InputError, match=r"scale\.time_scale says nothing in the virtual world"):
        load(ROOT / "topologies/1p1d.yaml", None, None, None, (" scale.time_scale=2",), VIRTUAL)


def test_a_trace_whose_name_no_file_can_have() -> None:
    settings = ("workload.kind=weka", r'workload.trace="a\0b"')
    with pytest.raises(InputError, match=r"workload\.trace.* is no file's name"):
        load(ROOT / "topologies/1p1d.yaml", None, None, None, settings)

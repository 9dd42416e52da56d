"""`testbed validate`, and how errors become messages and exit codes."""

import json
from pathlib import Path

import click
import pytest

from scheduler.errors import SchedulerError
from testbed.cli import main as cli
from testbed.cli.options import load
from testbed.errors import EnvironmentUnfit
from testbed.facts import facts, text
from testbed.policies import choose

ROOT = Path(__file__).parents[2]
EXPERIMENT = str(ROOT / "topologies/1p2d.yaml")


def test_valid_experiment_prints_what_may_be_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", EXPERIMENT]) == 0
    out, err = capsys.readouterr()
    assert "1p2d.yaml is valid" in out
    assert "load : compute" in out
    assert err == ""


def test_json_holds_bounds_ratios_and_the_resolved_experiment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["validate", EXPERIMENT, "--json", "--set", "seed=9"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["resolved"]["seed"] == 9
    assert facts["bounds"]["basic"]["binds"] == "SNICs"
    assert facts["bounds"]["dualpath"]["binds"] == "PE compute"
    gain = facts["bounds"]["dualpath"]["turns_per_s"] / facts["bounds"]["basic"]["turns_per_s"]
    assert 2.2 < gain < 2.6
    assert {ratio["name"] for ratio in facts["ratios"]} >= {"hit rate", "load : compute"}


def test_bad_experiment_is_one_line_on_stderr_and_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("cluster:\n  prefill_nodes: 1\n  decode_nods: 2\n")
    assert cli.main(["validate", str(bad)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"testbed: {bad}:3: unknown key 'decode_nods' in section 'cluster'; "
        "nearest known: 'decode_nodes'\n"
    )


def test_missing_file_and_bad_override_are_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", "nowhere.yaml"]) == 2
    assert "nowhere.yaml: cannot be read" in capsys.readouterr().err
    assert cli.main(["validate", EXPERIMENT, "--set", "cluster.decode_nodes=0"]) == 2
    assert capsys.readouterr().err.startswith("testbed: --set cluster.decode_nodes=0: ")


def test_a_node_that_is_not_there_is_blamed_on_its_override(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["validate", EXPERIMENT, "--set", "nodes.de7.snic_share=0.5"]) == 2
    assert capsys.readouterr().err.startswith("testbed: --set nodes.de7.snic_share=0.5: no node")


def test_another_kind_of_workload_has_its_own_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", EXPERIMENT, "--workload", "weka"]) == 0
    assert "recorded" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_words_fit_the_terminal(columns: int) -> None:
    experiment, workload = load(Path(EXPERIMENT), None, None, None, ())
    found = facts("x", experiment, workload, choose(["basic", "dualpath"]))
    lines = text(found, columns).splitlines()
    assert max(map(len, lines)) <= max(columns, 76)  # the line of links is not wrapped
    assert any(line.startswith("workload  1200 agents") for line in lines)


def test_workload_too_large_for_the_memory_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    change = [
        "--set",
        "hardware.hbm_kv_bytes_per_gpu=500e6",
        "--set",
        "engine.prefill_gpu_pool_bytes=4e8",
    ]
    assert cli.main(["validate", EXPERIMENT, *change]) == 2
    assert "longest context" in capsys.readouterr().err


def test_warnings_go_to_stderr_and_do_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set", "cluster.gpus_per_node=2"]
    assert cli.main(["validate", EXPERIMENT, *arguments]) == 0
    assert "warning: a node's compute NICs are worth" in capsys.readouterr().err


def test_kind_chosen_by_override_keeps_the_keys_it_knows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["validate", EXPERIMENT, "--json", "--set", "workload.kind=weka"]) == 0
    workload = json.loads(capsys.readouterr().out)["resolved"]["workload"]
    assert (workload["kind"], workload["agents"]) == ("weka", 1200)
    change = ["--set", "workload.kind=weka", "--set", "workload.spread=0.5"]
    assert cli.main(["validate", EXPERIMENT, *change]) == 2
    assert "unknown key 'spread'" in capsys.readouterr().err


def test_unknown_verb_names_the_nearest_and_usage_errors_are_exit_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["validat"]) == 2
    assert "no verb 'validat'; nearest verb: 'validate'" in capsys.readouterr().err
    assert cli.main(["validate"]) == 2


def test_help_lists_every_verb_without_importing_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in cli.VERBS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SchedulerError("s"), 1),
        (EnvironmentUnfit("e"), 4),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_errors_become_exit_codes(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli.group, "main", fail)
    assert cli.main([]) == code


def test_a_verbs_own_code_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.group, "main", lambda **_: 3)
    assert cli.main([]) == 3

"""What-if: the right keys are scaled, the answer ranks what helps, and a small one is played."""

import json
from pathlib import Path

import pytest

from testbed.cli.main import main
from testbed.spec import load_experiment
from testbed.whatif import RESOURCES, Outcome, _answer, changed, words

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"
BY_NAME = {resource.name: resource for resource in RESOURCES}


@pytest.mark.parametrize(("name", "key", "value"), [
    ("SNIC", "hardware.snic_bytes_per_s", 100e9),
    ("CNIC", "hardware.cnic_bytes_per_s", 100e9),
    ("DRAM bandwidth", "hardware.dram_bytes_per_s", 1000e9),
    ("decode HBM", "hardware.hbm_kv_bytes_per_gpu", 140e9),
    ("GPU", "model.per_token_s", 46.34e-6),
    ("GPU", "model.per_pair_s", 0.603e-9),
    ("decisions", "engine.fetch_period_s", 0.025),
    ("reads in flight", "engine.reads_in_flight", 20),
])  # fmt: skip
def test_twice_of_a_resource(name: str, key: str, value: float) -> None:
    experiment = changed(load_experiment(FILE), BY_NAME[name], 2.0)
    section, field = key.split(".")
    assert getattr(getattr(experiment, section), field) == pytest.approx(value)


def test_counts_stay_whole_and_pools_within_their_memory() -> None:
    few = load_experiment(FILE, ["engine.reads_in_flight=1"])
    assert changed(few, BY_NAME["reads in flight"], 0.5).engine.reads_in_flight == 1
    tight = load_experiment(FILE, ["engine.prefill_gpu_pool_bytes=60e9"])
    half = changed(tight, BY_NAME["decode HBM"], 0.5)
    assert half.engine.prefill_gpu_pool_bytes == half.hardware.hbm_kv_bytes_per_gpu == 35e9


def found(best: float) -> dict[tuple[str, float], Outcome]:
    runs = {("", 1.0): Outcome(100.0, 1.0, "SNICs", 101.0)}
    for resource in RESOURCES:
        runs[resource.name, 0.5] = Outcome(90.0, 1.0, "SNICs", 91.0)
        runs[resource.name, 2.0] = Outcome(100.0, 1.0, "SNICs", 101.0)
    runs["SNIC", 2.0] = Outcome(best, 1.0, "PE compute", 150.0)
    return runs


def test_the_most_helpful_comes_first_and_the_limit_moves() -> None:
    answer = _answer("x", "dualpath", found(140.0))
    assert answer.changes[0].resource == answer.upgrade == "SNIC"
    assert answer.changes[0].twice_gain == 1.4
    assert words(answer) == [
        "Now 100.0 turns/s; SNICs at most 101.0.",
        "Twice the SNIC gives 140.0; then the limit is PE compute, at 150.0.",
        "Differences below 5% may be chance.",
    ]


def test_noise_is_no_upgrade() -> None:
    answer = _answer("x", "dualpath", found(101.0))
    assert answer.upgrade == "" and answer.then == answer.now
    assert words(answer)[1] == "Twice of no single resource gives more."


def test_the_command_plays_every_variant(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "workload.agents=16", "--set", "workload.turns=1"]
    assert main(["whatif", str(FILE), *small, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["changes"]) == len(RESOURCES)
    assert answer["now"]["turns_per_s"] > 0
    assert main(["whatif", str(FILE), *small]) == 0
    out = capsys.readouterr().out
    assert "half of it" in out and all(resource.name in out for resource in RESOURCES)


def test_a_policy_that_is_not_there_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["whatif", str(FILE), "--policy", "dualpth"]) == 2
    assert "dualpath" in capsys.readouterr().err

"""Traffic isolation in virtual time: what KV does to collectives, with classes and without."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from testbed.cli.main import main

ROOT = Path(__file__).parents[2]
FEW = ("--set", "workload.agents=50")


def arguments(experiment: str, runs: Path, *words: str) -> list[str]:
    path = str(ROOT / "topologies" / experiment)
    return ["isolation", path, "--world", "virtual", "--runs", str(runs), "--json", *words]


def test_classes_keep_kv_from_collectives_and_from_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("isolation.yaml", tmp_path, *FEW)) == 0
    out = capsys.readouterr()
    result = json.loads(out.out)
    alone, classes, none = (
        result["policies"][name] for name in ("without KV", "with classes", "no classes")
    )
    for one in (alone, classes, none):
        assert one["completed_turns"] == 50
        assert one["tokens_equal"] == one["tokens_checked"] > 0
    assert alone["tpot_s"]["mean"] == pytest.approx(0.039, rel=0.01)
    assert classes["tpot_s"]["mean"] == pytest.approx(alone["tpot_s"]["mean"], rel=0.05)
    assert none["tpot_s"]["mean"] > 1.5 * alone["tpot_s"]["mean"]
    decode: list[Any] = [one["collectives"]["de"] for one in (alone, classes, none)]
    # Fewer turns at once, and so smaller messages, where turns do not wait for KV; never slower.
    assert decode[1]["p99_ms"] < 1.05 * decode[0]["p99_ms"]
    assert decode[2]["p99_ms"] > 10 * decode[0]["p99_ms"]
    assert [one["delayed_share"] for one in decode[:2]] == pytest.approx([0, 0], abs=0.01)
    assert decode[2]["delayed_share"] > 0.5
    assert decode[1]["kv_bps"] > 50 * decode[0]["kv_bps"]
    if find_spec("matplotlib"):
        assert (Path(result["folder"]) / "isolation.png").stat().st_size > 10_000
        assert "isolation.png" in out.err


def test_its_table_is_about_collectives_and_tokens_and_keeps_kvs_own_times_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in arguments("isolation.yaml", tmp_path, *FEW) if word != "--json"]
    assert main(words) == 0
    out = capsys.readouterr().out
    rows = ("TPOT mean", "collectives of decode, p99", "decode layers delayed", "KV into decode")
    places = [out.index(row) for row in (*rows, "KV's own way", "Isolation shows", "functional:")]
    assert places == sorted(places)
    assert "speed-up" not in out and "turns/s" not in out


@pytest.mark.parametrize(
    ("experiment", "words", "wanted"),
    [
        ("1p1d.yaml", ["--aps", "1"], "cluster.folded=false"),
        ("isolation.yaml", ["--set", "workload.aps=null"], "workload.aps"),
        ("replay.yaml", [], "workload.kind"),
    ],
)
def test_an_experiment_that_shows_nothing_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    experiment: str,
    words: list[str],
    wanted: str,
) -> None:
    assert main(arguments(experiment, tmp_path, *words)) == 2
    assert wanted in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

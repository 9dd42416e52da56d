"""One request over both paths, in whole clusters: right, sooner where storage waits for nobody."""

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.cli.main import main

ROOT = Path(__file__).parents[2]


def compare(
    runs: Path, capsys: pytest.CaptureFixture[str], experiment: str, *settings: str
) -> dict[str, Any]:
    """Results of both policies by name, all turns and tokens right."""
    path = str(ROOT / f"topologies/{experiment}.yaml")
    words = ["compare", path, "--world", "virtual", "--json", "--require", "functional"]
    words += ["--runs", str(runs), "--policies", "dualpath,split"]
    for setting in settings:
        words += ["--set", setting]
    assert main(words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["policies"]
    for policy in found.values():
        assert policy["failed_turns"] == 0
        assert policy["tokens_checked"] == policy["tokens_equal"] > 0
        assert all(line["counted_bytes"] == line["expected_bytes"] for line in policy["ledger"])
    return found


def cuts(runs: Path, policy: str) -> list[bool]:
    """Of each turn, whether both sides read a part of it."""
    (log,) = runs.glob(f"*/{policy}/events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [len(event["reads"]) > 1 for event in events if event["event"] == "decided"]


def test_a_first_token_comes_sooner_where_storage_reads_for_one_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(tmp_path, capsys, "split", "workload.agents=40")
    assert found["dualpath"]["ttft_s"]["mean"] > 1.2 * found["split"]["ttft_s"]["mean"]
    assert not any(cuts(tmp_path, "dualpath"))
    assert sum(cuts(tmp_path, "split")) > 0.9 * 160


def test_as_much_comes_out_where_storage_is_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("workload.agents=300", "workload.turns=4", "scale.layers=1")
    found = compare(tmp_path, capsys, "1p1d", *settings, "hardware.snic_share=0.2")
    rate = {name: policy["throughput_turns_per_s"] for name, policy in found.items()}
    assert rate["split"] > 0.97 * rate["dualpath"]


@pytest.mark.parametrize("settings", [
    (),
    ("scale.token_scale=16", "scale.layers=3"),
    ("cluster.decode_nodes=2", "cluster.gpus_per_node=2", "cluster.folded=false",
     "cluster.storage_hosts=2", "engine.prefill_gpu_pool_bytes=40e9"),
])  # fmt: skip
def test_both_parts_meet_in_the_right_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...]
) -> None:
    small = ("workload.agents=12", "workload.turns=2", "workload.cached_tokens=8000",
             "engine.kv_samples=1", "engine.real_kv=true")  # fmt: skip
    found = compare(tmp_path, capsys, "split", *small, *settings)
    assert found["split"]["kv_checked"] == found["split"]["kv_equal"] == 24
    assert any(cuts(tmp_path, "split"))

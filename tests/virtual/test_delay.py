"""Delays in whole clusters: a lone turn is late by the closed form, and all stays right."""

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.cli.main import main

ROOT = Path(__file__).parents[2]
LONE = ("workload.agents=1", "workload.turns=1", "workload.mid_decode=0")
DELAY_S = 0.05
LAYERS = 4


def play(
    runs: Path, capsys: pytest.CaptureFixture[str], policy: str, *settings: str,
    experiment: str = "1p1d",
) -> dict[str, Any]:  # fmt: skip
    words = ["run", str(ROOT / f"topologies/{experiment}.yaml"), "--world", "virtual", "--json"]
    words += ["--require", "functional", "--runs", str(runs), "--policy", policy]
    for setting in settings:
        words += ["--set", setting]
    assert main(words) == 0
    (result,) = json.loads(capsys.readouterr().out)["policies"].values()
    found: dict[str, Any] = result
    return found


@pytest.mark.parametrize("policy", ["pe-only", "de-only"])
@pytest.mark.parametrize("kind", ["snic", "storage"])
def test_a_read_is_late_by_the_sum_of_its_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, kind: str
) -> None:
    plain = play(tmp_path, capsys, policy, *LONE)
    late = play(tmp_path, capsys, policy, *LONE, f"delays.{kind}={DELAY_S}")
    assert (plain["delay_by"], late["delay_by"]) == ("none", "modelled")
    for what in ("ttft_s", "jct_s"):
        assert late[what]["mean"] == pytest.approx(plain[what]["mean"] + DELAY_S, abs=1e-9)
    assert late["ttst_s"] == pytest.approx(plain["ttst_s"])
    assert late["bytes"] == plain["bytes"]


@pytest.mark.parametrize(("policy", "settings", "way_s"), [
    ("pe-only", (f"delays.cnic={DELAY_S}",), DELAY_S),
    ("pe-only", (f"delays.cnic={DELAY_S}", f"delays.pcie={DELAY_S}"), 2 * DELAY_S),
    ("pe-only", (f"nodes.pe0.pcie_delay_s={DELAY_S}",), DELAY_S),
    ("de-only", (f"nodes.de0.uplink_delay_s={DELAY_S}",), DELAY_S),
    ("de-only", (f"delays.uplink={DELAY_S}", f"delays.pcie={DELAY_S}"), 3 * DELAY_S),
])  # fmt: skip
def test_the_last_layer_comes_a_way_after_a_round_trip_for_each_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, settings: tuple[str, ...],
    way_s: float,
) -> None:  # fmt: skip
    """A buffer sends a layer when the one before is acknowledged; only compute hides under it."""
    # The KV of a layer takes longer than to compute it, so that nothing else is waited for.
    slow = (*LONE, "hardware.cnic_bytes_per_s=1e9")
    plain = play(tmp_path, capsys, policy, *slow)
    late = play(tmp_path, capsys, policy, *slow, *settings)
    more_s = late["ttft_s"]["mean"] - plain["ttft_s"]["mean"]
    assert more_s == pytest.approx((2 * LAYERS - 1) * way_s, abs=1e-9)


@pytest.mark.parametrize("settings", [
    ("engine.real_kv=true", "engine.kv_samples=1"),
    ("cluster.gpus_per_node=2", "cluster.folded=false", "cluster.group_nodes=2",
     "engine.prefill_gpu_pool_bytes=40e9", "cluster.storage_hosts=2"),
    ("engine.scheduler_restart_s=[0.4,1.1]",),
    ("delays.cnic=3", "workload.agents=4"),  # a barrier takes longer than many beats
])  # fmt: skip
def test_with_delays_everywhere_all_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...]
) -> None:
    delays = [f"delays.{kind}={0.003 * n}" for n, kind in enumerate(
        ("snic", "cnic", "pcie", "uplink", "storage"), 1)]  # fmt: skip
    found = play(
        tmp_path, capsys, "dualpath", "workload.agents=24", "workload.turns=2",
        "workload.openings=4", "workload.mid_decode=0", "nodes.pe1.uplink_delay_s=0.02",
        *delays, *settings, experiment="2p1d",
    )  # fmt: skip
    assert found["failed_turns"] == 0 and found["completed_turns"] >= 8
    assert found["tokens_checked"] == found["tokens_equal"] > 8
    assert all(line["counted_bytes"] == line["expected_bytes"] for line in found["ledger"])


def test_the_picture_says_who_made_the_delays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(ROOT / "topologies/1p1d.yaml"), "--world", "virtual", "--require",
             "functional", "--runs", str(tmp_path)]  # fmt: skip
    for setting in LONE:
        words += ["--set", setting]
    assert main(words) == 0
    assert "delay" not in capsys.readouterr().out
    assert main([*words, "--set", "delays.pcie=0.001"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "links' delay by" in line]
    assert "modelled" in line

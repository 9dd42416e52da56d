"""Delays in namespaces: a lone turn is late by at least what they come to, and is right."""

from pathlib import Path

from cluster import ONE_TURN, arguments, call

LAYERS = 4


def test_a_lone_turns_first_token_waits_for_every_delay_on_its_way(tmp_path: Path) -> None:
    delays = ("delays.snic=0.2", "delays.storage=0.1", "nodes.pe0.pcie_delay_s=0.15")
    words = arguments("run", "1p1d.yaml", tmp_path / "runs", *ONE_TURN, *delays)
    result = call([*words, "--policy", "pe-only", "--require", "functional"], tmp_path / "cache")
    (turn,) = result["policies"].values()
    assert turn["completed_turns"] == 1 and turn["failed_turns"] == 0
    assert turn["tokens_checked"] == turn["tokens_equal"] > 0
    assert turn["delay_by"] in ("netem", "due-time")
    # One read, and layers one after the other, each there and all but the last one back.
    least_s = 0.2 + 0.1 + (2 * LAYERS - 1) * 0.15
    assert turn["ttft_s"]["mean"] >= least_s
    assert turn["delay_late_s"] >= 0

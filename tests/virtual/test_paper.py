"""The paper's ratios at a small size: the ablation's order, and what the Oracle leaves open."""

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.cli.main import main

STEPS = ["basic", "basic+layerwise", "basic+layerwise+dual-path", "dualpath", "oracle"]


def test_every_part_helps_and_dualpath_reaches_the_papers_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([
        "compare", "topologies/2p4d.yaml", "--world", "virtual", "--json",
        "--policies", ",".join(STEPS), "--runs", str(tmp_path), "--set", "workload.agents=1024",
    ]) == 0  # fmt: skip
    out, err = capsys.readouterr()
    err = " ".join(err.split())  # it is wrapped
    assert "KV moves in no time" in err and "0.3 s of each GPU's attention" in err
    result: dict[str, Any] = json.loads(out)
    jct_s = [result["policies"][name]["jct_s"]["mean"] for name in STEPS]
    assert jct_s[0] > jct_s[1] > jct_s[2] > jct_s[3]
    assert 1.7 <= result["speedup"]["dualpath"] <= 2.0
    # DualPath is bound by compute here, and so there is next to nothing left to gain.
    assert 0.99 <= result["speedup"]["oracle"] / result["speedup"]["dualpath"] <= 1.1
    oracle = result["policies"]["oracle"]
    assert oracle["tokens_equal"] == oracle["tokens_checked"] > 1000
    assert oracle["bound"]["binds"] == "PE compute"
    assert max(shares["snic"] for shares in oracle["nodes"].values()) < 0.01


def test_the_oracle_is_refused_where_real_bytes_move(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    words = ["run", "topologies/1p1d.yaml", "--policy", "oracle", "--runs", str(runs)]
    assert main([*words, "--world", "emulated"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "policy oracle moves KV in no time" in line and "--world virtual" in line
    assert not runs.exists()

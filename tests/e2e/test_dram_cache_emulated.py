"""A DRAM cache in the emulated world: real blocks out of DRAM, and right tokens from them."""

from pathlib import Path

from cluster import arguments, call

FEW = (
    "workload.agents=12", "workload.turns=3", "workload.openings=3", "workload.mid_decode=0",
    "engine.kv_samples=1", "hardware.dram_cache_bytes=20e9",
)  # fmt: skip


def test_later_turns_come_out_of_dram_and_are_right(tmp_path: Path) -> None:
    words = arguments("compare", "1p1d.yaml", tmp_path / "runs", *FEW)
    words += ["--policies", "affinity,dualpath-affinity", "--require", "functional"]
    result = call(words, tmp_path / "cache")
    # The ledger is part of the verdict: storage NICs carried what was not in DRAM, and no more.
    assert result["verdict"]["functional"] == "passed"
    for policy in result["policies"].values():
        assert policy["completed_turns"] == policy["kv_checked"] == policy["kv_equal"] == 36
        assert policy["tokens_checked"] == policy["tokens_equal"] > 36
        assert policy["dram_hit_share"] > 0.5
        (read,) = (each for each in policy["ledger"] if each["port"] == "storage:snic:tx")
        (pulled,) = (each for each in policy["ledger"] if each["port"] == "pe0-gpu:cnic:rx")
        assert 0 < read["counted_bytes"] < 0.5 * pulled["counted_bytes"]

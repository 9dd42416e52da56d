"""Collectives between real hosts: they cross compute NICs in their class, and are timed there."""

from pathlib import Path

from cluster import arguments, call

FEW = (
    "workload.agents=6", "workload.openings=1", "workload.cached_tokens=4096",
    "workload.append_tokens=129", "cluster.gpus_per_node=2", "hardware.cnic_bytes_per_s=4e9",
)  # fmt: skip


def test_hosts_of_a_group_exchange_tokens_in_class_model(tmp_path: Path) -> None:
    words = arguments("run", "isolation.yaml", tmp_path, *FEW)
    result = call(words, tmp_path / "cache")
    assert result["verdict"]["functional"] == "passed"
    (turns,) = result["policies"].values()
    assert turns["completed_turns"] == 6
    for side in ("pe", "de"):
        found = turns["collectives"][side]
        # Two hosts, two exchanges a layer, four layers a step: as many messages on either side.
        assert found["messages"] > 0 and found["messages"] % (2 * 2 * 4) == 0
        assert 0 <= found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
        assert 0 <= found["late_p99_ms"] <= found["max_ms"]
    least = 256 * turns["collectives"]["de"]["messages"] / 2
    for gpu in ("de0-gpu0", "de0-gpu1"):
        assert turns["model_bytes"][f"{gpu}:cnic"] > least
        assert turns["model_bytes"]["de0-buf:pcie"] == 0

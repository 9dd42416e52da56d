"""The main job at CI size: both policies, every token, real hits on own KV, the schema."""

import subprocess
from pathlib import Path

import pytest
from cluster import SMALL, arguments, call, environment

PUBLISHED = {
    "completed_turns", "failed_turns", "tokens_checked", "tokens_equal", "throughput_turns_per_s",
    "ttft_s", "ttst_s", "tpot_s", "jct_s", "path_share", "snic_utilisation", "gpu_busy_share",
    "gpu_waiting_for_kv_share", "bytes", "bound", "persisted_then_hit_blocks",
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_compare_checks_every_token_and_publishes_its_schema(tmp_path: Path, cache: Path) -> None:
    words = arguments("compare", "1p1d.yaml", tmp_path, *SMALL, "engine.kv_samples=0.3")
    result = call([*words, "--require", "functional"], cache)
    assert result["verdict"]["functional"] == "passed"
    assert list(result["policies"]) == ["basic", "dualpath"]
    assert set(result["speedup"]) == {"basic", "dualpath"}
    assert result["speedup"]["basic"] == 1.0
    for policy in result["policies"].values():
        assert set(policy) >= PUBLISHED
        assert set(policy["jct_s"]) == {"mean", "p50", "p99"}
        assert policy["completed_turns"] == 96 and policy["failed_turns"] == 0
        assert policy["tokens_checked"] == policy["tokens_equal"] > 96
        assert policy["kv_checked"] == policy["kv_equal"] > 5
        assert policy["persisted_then_hit_blocks"] > 0
        assert set(policy["snic_utilisation"]) == {"pe0", "de0"}
    assert result["policies"]["basic"]["path_share"] == {"pe": 1.0, "de": 0.0}
    assert 0.3 < result["policies"]["dualpath"]["path_share"]["de"] < 0.7


def test_two_runs_at_the_same_time_are_both_right(tmp_path: Path, cache: Path) -> None:
    words = arguments("run", "1p1d.yaml", tmp_path, *SMALL)
    both = [
        subprocess.Popen(
            words, env=environment(cache), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, err.decode() + out.decode()[-2000:]
    assert len(list(tmp_path.iterdir())) == 2


def test_unfolded_engines_in_one_group_exchange_model_messages_and_stay_right(
    tmp_path: Path, cache: Path
) -> None:
    words = arguments(
        "run", "2p1d.yaml", tmp_path, "workload.agents=12", "workload.turns=2",
        "workload.openings=2",
        "cluster.gpus_per_node=2", "cluster.folded=false", "cluster.group_nodes=2",
        "engine.kv_samples=1", "engine.prefill_gpu_pool_bytes=40e9", "cluster.storage_hosts=2",
    )  # fmt: skip
    result = call(words, cache)
    policy = result["policies"]["dualpath"]
    assert policy["completed_turns"] == 24
    assert policy["tokens_checked"] == policy["tokens_equal"] > 0
    assert policy["kv_checked"] == policy["kv_equal"] == 24
    for gpu in ("pe0-gpu0", "pe0-gpu1", "pe1-gpu0", "pe1-gpu1"):
        assert policy["model_bytes"][f"{gpu}:cnic"] > 0
    assert policy["model_bytes"]["pe0-buf:pcie"] == 0


def test_turns_wait_for_memories_that_hold_a_few_of_them(tmp_path: Path, cache: Path) -> None:
    words = arguments(
        "run", "1p1d.yaml", tmp_path, *SMALL, "hardware.dram_buffer_bytes=2e9",
        "hardware.hbm_kv_bytes_per_gpu=1.4e9", "engine.prefill_gpu_pool_bytes=0.7e9",
    )  # fmt: skip
    policy = call(words, cache)["policies"]["dualpath"]
    assert policy["completed_turns"] == 96
    assert policy["tokens_checked"] == policy["tokens_equal"] > 96


def test_a_finer_token_scale_is_right_too(tmp_path: Path, cache: Path) -> None:
    words = arguments(
        "run", "1p1d.yaml", tmp_path, "scale.token_scale=16", "workload.agents=8",
        "workload.cached_tokens=4096", "workload.openings=2", "engine.kv_samples=1",
    )  # fmt: skip
    policy = call(words, cache)["policies"]["dualpath"]
    assert policy["completed_turns"] == policy["kv_equal"] == 16
    assert policy["tokens_checked"] == policy["tokens_equal"] > 100

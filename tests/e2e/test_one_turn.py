"""One turn on each path, the cluster otherwise idle: every port carries what Figure 4 says."""

from pathlib import Path
from typing import Any

import pytest
from cluster import ONE_TURN, arguments, call

LINE_ERROR = 0.01  # of flows of H
K = 1280  # bytes of an emulated token in all layers


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def play(policy: str, runs: Path, cache: Path) -> tuple[Any, dict[str, int]]:
    words = arguments("run", "1p1d.yaml", runs, *ONE_TURN, "engine.kv_samples=1")
    result = call([*words, "--policy", policy], cache)
    (turns,) = result["policies"].values()
    assert turns["completed_turns"] == 1
    assert turns["tokens_checked"] == turns["tokens_equal"] > 0
    assert turns["kv_checked"] == turns["kv_equal"] == 1
    return turns, turns["bytes"]


def sizes() -> tuple[int, int]:
    """H and m of the turn: 32,704 cached tokens (whole blocks) and 429 appended."""
    hit = 32_704 // 64 * K
    miss = ((32_704 + 429) // 64 - 32_704 // 64) * K
    return hit, miss


def close(counted: int, expected: int) -> bool:
    return abs(counted - expected) <= LINE_ERROR * expected


def test_a_turn_on_the_pe_path_loads_every_port_as_the_closed_form_says(
    tmp_path: Path, cache: Path
) -> None:
    _, counted = play("pe-only", tmp_path, cache)
    hit, miss = sizes()
    assert close(counted["pe0-buf:snic:rx"], hit)
    assert close(counted["pe0-buf:pcie:tx"], hit)
    assert close(counted["pe0-gpu:cnic:rx"], hit)
    assert close(counted["pe0-gpu:cnic:tx"], hit + miss)
    assert close(counted["de0-buf:pcie:tx"], hit + miss)
    assert close(counted["de0-gpu:cnic:rx"], hit + miss)
    assert counted["de0-buf:snic:rx"] < LINE_ERROR * hit  # acknowledgements of persisted blocks
    generated = 176 // 64 * K + K
    assert counted["de0-buf:pcie:rx"] <= (hit + miss + generated) * (1 + LINE_ERROR)


def test_a_turn_on_the_de_path_never_touches_the_prefill_nodes_memory(
    tmp_path: Path, cache: Path
) -> None:
    _, counted = play("de-only", tmp_path, cache)
    hit, miss = sizes()
    assert close(counted["de0-buf:snic:rx"], hit)
    assert close(counted["de0-buf:pcie:tx"], 2 * hit + miss)
    assert close(counted["pe0-gpu:cnic:rx"], hit)
    assert close(counted["de0-gpu:cnic:rx"], hit + miss)
    assert counted["pe0-gpu:cnic:tx"] < 2 * miss  # miss KV and its frames alone
    for port in ("pe0-buf:snic:rx", "pe0-buf:pcie:rx", "pe0-buf:pcie:tx"):
        assert counted[port] == 0

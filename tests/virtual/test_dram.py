"""DRAM caches in virtual time, with real KV in them: right tokens, exact ports, found damage."""

import json
from pathlib import Path
from typing import Any

import pytest

from engines.cache import DramCache
from engines.kv import Span
from engines.modelled.checked import CheckedTransport
from engines.modelled.transport import FluidTransport
from testbed.cli.main import main

ROOT = Path(__file__).parents[2]
SMALL = (
    "workload.agents=24", "workload.turns=4", "workload.openings=24", "workload.spread=0.5",
    "workload.mid_decode=0", "engine.kv_samples=1", "engine.real_kv=true",
    "hardware.dram_cache_bytes=100e9",
)  # fmt: skip


def play(
    runs: Path, capsys: pytest.CaptureFixture[str], *settings: str,
    policies: str = "dualpath-affinity", experiment: str = "2p1d", code: int = 0,
) -> dict[str, Any]:  # fmt: skip
    words = ["compare", str(ROOT / f"topologies/{experiment}.yaml"), "--world", "virtual", "--json",
             "--require", "functional", "--runs", str(runs), "--policies", policies]  # fmt: skip
    for setting in (*SMALL, *settings):
        words += ["--set", setting]
    assert main(words) == code
    policies_: dict[str, Any] = json.loads(capsys.readouterr().out)["policies"]
    return policies_


def storage_bytes(policy: dict[str, Any]) -> int:
    (line,) = (each for each in policy["ledger"] if each["port"] == "storage:snic:tx")
    return int(line["counted_bytes"])


@pytest.mark.parametrize("settings", [
    (),
    ("hardware.dram_cache_bytes=6e9",),  # nine of 24 contexts: blocks come and go
    ("scale.token_scale=16", "scale.layers=3", "hardware.dram_cache_bytes=12e9"),
    ("cluster.gpus_per_node=2", "cluster.folded=false", "cluster.group_nodes=2",
     "engine.prefill_gpu_pool_bytes=40e9", "cluster.storage_hosts=2"),
])  # fmt: skip
def test_every_token_is_right_and_every_port_carries_only_what_was_not_in_dram(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...]
) -> None:
    found = play(tmp_path, capsys, *settings, policies="basic,affinity,dualpath,dualpath-affinity")
    for policy in found.values():
        assert policy["completed_turns"] == policy["kv_checked"] == policy["kv_equal"] == 96
        assert policy["tokens_checked"] == policy["tokens_equal"] > 96
        assert 0 < policy["dram_hit_share"] < 1
        assert all(line["counted_bytes"] == line["expected_bytes"] for line in policy["ledger"])


def test_sessions_that_drop_context_hit_what_they_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(ROOT / "topologies/weka.yaml"), "--world", "virtual", "--json",
             "--require", "functional", "--runs", str(tmp_path), "--policies",
             "affinity,dualpath-affinity"]  # fmt: skip
    for setting in ("workload.agents=24", "workload.turns=6", "engine.kv_samples=1",
                    "engine.real_kv=true", "hardware.dram_cache_bytes=20e9"):  # fmt: skip
        words += ["--set", setting]
    assert main(words) == 0
    for policy in json.loads(capsys.readouterr().out)["policies"].values():
        assert policy["tokens_checked"] == policy["tokens_equal"] > 0
        assert policy["kv_checked"] == policy["kv_equal"] == policy["completed_turns"]
        assert policy["dram_hit_share"] > 0.3


def test_what_fits_is_read_from_storage_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = play(tmp_path, capsys, "hardware.dram_cache_bytes=0")["dualpath-affinity"]
    found = play(tmp_path, capsys, policies="affinity,dualpath-affinity")
    assert without["dram_hit_share"] == 0
    for policy in found.values():
        # Of four turns the first one reads its context, the others some blocks of the last turn.
        assert storage_bytes(policy) < 0.35 * storage_bytes(without)
    hits = {node: each["dram_hits"] for node, each in found["affinity"]["nodes"].items()}
    assert hits["pe0"] > 0.5 < hits["pe1"] and hits["de0"] == 0


def test_a_cache_changes_tokens_of_no_turn_and_real_kv_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs: dict[str, list[dict[str, Any]]] = {}
    for size in ("0", "2e9"):
        for real in ("true", "false"):
            settings = (f"hardware.dram_cache_bytes={size}", f"engine.real_kv={real}")
            play(tmp_path / size / real, capsys, *settings)
            (log,) = (tmp_path / size / real).glob("*/*/events.jsonl")
            logs[size + real] = [json.loads(line) for line in log.read_text().splitlines()]

    def tokens(name: str) -> dict[int, str]:
        return {e["request"]: e["generated"] for e in logs[name] if e["event"] == "done"}

    def moments(name: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in e.items() if k != "generated"} for e in logs[name]]

    assert tokens("0true") == tokens("2e9true") != tokens("2e9false")
    assert moments("2e9true") == moments("2e9false") != moments("0true")


def harm_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One bit of the first block that any cache keeps flips; returns the blocks harmed."""
    harmed: list[int] = []
    copy = CheckedTransport.copy

    def harming(self: CheckedTransport, source: Span, target: Span) -> None:
        copy(self, source, target)
        if target.region == "cache" and not harmed:
            self._regions.view(target)[0, 1] ^= 1 << 9
            harmed.append(source.first // 64)

    monkeypatch.setattr(CheckedTransport, "copy", harming)
    return harmed


def test_a_damaged_block_in_dram_fails_its_turn_and_gives_no_wrong_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    harmed = harm_what_is_kept(monkeypatch)
    policy = play(tmp_path, capsys, policies="affinity", code=1)["affinity"]
    (reason,) = policy["failures"]
    assert reason.startswith(f"block {harmed[0]} of the prompt, in region 'dram' of pe")
    # The agent's first turn was read from storage; it ends with the second of its four.
    assert policy["failed_turns"] == 3 and policy["completed_turns"] == 93
    assert policy["tokens_equal"] == policy["tokens_checked"] > 0
    assert policy["kv_equal"] == policy["kv_checked"]


def test_where_no_digest_is_checked_the_damage_changes_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    harm_what_is_kept(monkeypatch)
    settings = ("engine.verify_digests=false",)
    policy = play(tmp_path, capsys, *settings, policies="affinity", code=1)["affinity"]
    assert policy["failed_turns"] == 0
    assert policy["tokens_equal"] < policy["tokens_checked"]


def test_blocks_that_storage_damaged_are_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: set[tuple[str, int, int]] = set()
    kept: list[tuple[str, int, int]] = []
    check, keep = CheckedTransport.check, DramCache.keep

    def failing(self: Any, span: Span, content: bytes, first: int, digests: bytes) -> None:
        check(self, span, content, first, digests if len(checked) != 5 else bytes(len(digests)))
        checked.add((self.host, span.slot, span.first))

    def keeping(self: Any, extents: Any, source: Span, digests: bytes) -> None:
        if source.region == "dram" and self._transport.host.startswith("pe"):
            kept.append((self._transport.host, source.slot, source.first))
        keep(self, extents, source, digests)

    monkeypatch.setattr(CheckedTransport, "check", failing)
    monkeypatch.setattr(DramCache, "keep", keeping)
    policy = play(tmp_path, capsys, policies="affinity", code=1)["affinity"]
    assert policy["failed_turns"] > 0 and kept and set(kept) <= checked
    assert policy["tokens_equal"] == policy["tokens_checked"]


def test_no_cache_asks_for_no_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, source: Span, target: Span) -> None:
        raise AssertionError("a copy")

    monkeypatch.setattr(CheckedTransport, "copy", refuse)
    monkeypatch.setattr(FluidTransport, "copy", refuse)
    found = play(tmp_path, capsys, "hardware.dram_cache_bytes=0", policies="basic,dualpath")
    assert all(policy["dram_hit_share"] == 0 for policy in found.values())

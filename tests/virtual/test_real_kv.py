"""Where memories hold real KV, what is damaged, misplaced, late or left out is found out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.agents import OPENING_CHAINS
from engines.messages import Append, LayerDone, LayerLoaded, Message, Persist, ReadDone, Start
from engines.modelled.checked import CheckedStore, CheckedWires
from engines.seams.transport import Write
from testbed.cli.main import main
from testbed.worlds.held import HeldKv

ROOT = Path(__file__).parents[2]
SMALL = (
    "workload.agents=24", "workload.turns=2", "workload.openings=4", "workload.mid_decode=0",
    "engine.kv_samples=1", "engine.real_kv=true",
)  # fmt: skip
Blocks = dict[tuple[int, int], Any]


def play(
    runs: Path, capsys: pytest.CaptureFixture[str], *settings: str, experiment: str = "1p1d",
    policies: str = "dualpath", code: int = 0,
) -> dict[str, Any]:  # fmt: skip
    words = ["compare", str(ROOT / f"topologies/{experiment}.yaml"), "--world", "virtual", "--json",
             "--require", "functional", "--runs", str(runs), "--policies", policies]  # fmt: skip
    for setting in (*SMALL, *settings):
        words += ["--set", setting]
    assert main(words) == code
    policies_: dict[str, Any] = json.loads(capsys.readouterr().out)["policies"]
    return policies_


@pytest.mark.parametrize("settings", [
    (),
    ("scale.token_scale=16", "scale.layers=3"),
    ("cluster.gpus_per_node=2", "cluster.folded=false", "cluster.group_nodes=2",
     "engine.prefill_gpu_pool_bytes=40e9", "cluster.storage_hosts=2"),
    ("hardware.dram_buffer_bytes=2e9", "hardware.hbm_kv_bytes_per_gpu=1.4e9",
     "engine.prefill_gpu_pool_bytes=0.7e9"),
])  # fmt: skip
def test_every_token_and_all_kv_is_that_of_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...]
) -> None:
    found = play(tmp_path, capsys, *settings, experiment="2p1d", policies="basic,dualpath")
    for policy in found.values():
        assert policy["completed_turns"] == policy["kv_checked"] == policy["kv_equal"] == 48
        assert policy["tokens_checked"] == policy["tokens_equal"] > 48
        assert policy["persisted_then_hit_blocks"] > 0
        assert all(line["counted_bytes"] == line["expected_bytes"] for line in policy["ledger"])


def test_real_kv_changes_tokens_and_no_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events, tokens = [], []
    for real in ("true", "false"):
        play(tmp_path / real, capsys, f"engine.real_kv={real}")
        (log,) = (tmp_path / real).glob("*/*/events.jsonl")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        tokens.append([line.pop("generated", "") for line in lines])
        events.append(lines)
    assert events[0] == events[1]
    assert tokens[0] != tokens[1]


def damage(monkeypatch: pytest.MonkeyPatch, harm: Callable[[Blocks], None]) -> None:
    """Harm what storage holds at the start."""
    fill = HeldKv.store

    def filled(self: HeldKv, host: str) -> CheckedStore:
        store = fill(self, host)
        harm(store.blocks)
        return store

    monkeypatch.setattr(HeldKv, "store", filled)


def flip(blocks: Blocks) -> None:
    """One bit of one layer of block 7 of the first opening."""
    kv, _ = blocks[OPENING_CHAINS, 7]
    kv[0, 2] ^= 1 << 40


def swap(blocks: Blocks) -> None:
    """Two blocks of the first opening change places, digests and all."""
    one, other = (OPENING_CHAINS, 7), (OPENING_CHAINS, 8)
    blocks[one], blocks[other] = blocks[other], blocks[one]


@pytest.mark.parametrize("harm", [flip, swap])
def test_a_digest_finds_what_storage_damaged_or_misplaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Blocks], None],
) -> None:  # fmt: skip
    damage(monkeypatch, harm)
    policy = play(tmp_path, capsys, code=1)["dualpath"]
    # Six of 24 agents share the opening; each ends with its first turn.
    assert policy["failed_turns"] == 12 and policy["completed_turns"] == 36
    assert policy["failures"] and all(
        reason.startswith("block 7 of the prompt, in region 'dram' of ")
        for reason in policy["failures"]
    )
    assert policy["tokens_equal"] == policy["tokens_checked"]


@pytest.mark.parametrize("harm", [flip, swap])
def test_where_no_digest_is_checked_tokens_and_kv_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Blocks], None],
) -> None:  # fmt: skip
    damage(monkeypatch, harm)
    policy = play(tmp_path, capsys, "engine.verify_digests=false", code=1)["dualpath"]
    assert policy["failed_turns"] == 0
    assert policy["kv_checked"] - policy["kv_equal"] == 12  # both turns of six agents
    wrong = policy["tokens_checked"] - policy["tokens_equal"]
    assert wrong >= 12


def meddle(
    monkeypatch: pytest.MonkeyPatch, kind: type[Message],
    arrive: Callable[[CheckedWires, str, str, Write], None],
) -> None:  # fmt: skip
    """What writes with this doorbell do when they arrive, in place of moving their bytes."""
    move = CheckedWires.move

    def moved(self: CheckedWires, sender: str, peer: str, write: Write) -> None:
        act = arrive if isinstance(write.note, kind) else move
        act(self, sender, peer, write)

    monkeypatch.setattr(CheckedWires, "move", moved)
    monkeypatch.setattr(CheckedWires, "really_move", move, raising=False)


def late(wires: Any, sender: str, peer: str, write: Write) -> None:
    """The doorbell rings before the bytes are there."""
    wires.loop.call_later(0.05, wires.really_move, sender, peer, write)


def without_last_layer(wires: Any, sender: str, peer: str, write: Write) -> None:
    """Bytes of the last layer are left out."""
    if write.source.layer_last < wires.layout.layers:
        wires.really_move(sender, peer, write)


def one_block_on(wires: Any, sender: str, peer: str, write: Write) -> None:
    """A span whose bytes come from one block further on."""
    source = write.source.tokens(write.source.first + 64, write.source.last + 64)
    kv = wires.regions[sender].view(source)
    wires.regions[peer].view(write.target)[:] = kv


@pytest.mark.parametrize(("kind", "arrive"), [
    (LayerLoaded, late), (LayerLoaded, without_last_layer), (LayerLoaded, one_block_on),
    (LayerDone, late), (LayerDone, without_last_layer), (LayerDone, one_block_on),
    (Start, late), (Start, one_block_on), (Append, late),
])  # fmt: skip
def test_tokens_tell_of_bytes_that_are_late_left_out_or_misplaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    kind: type[Message], arrive: Callable[[CheckedWires, str, str, Write], None],
) -> None:  # fmt: skip
    meddle(monkeypatch, kind, arrive)
    policy = play(tmp_path, capsys, code=1)["dualpath"]
    assert policy["tokens_checked"] - policy["tokens_equal"] > 0
    assert policy["kv_checked"] - policy["kv_equal"] > 0


def test_a_read_whose_doorbell_comes_first_fails_its_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    meddle(monkeypatch, ReadDone, late)
    policy = play(tmp_path, capsys, code=1)["dualpath"]
    assert policy["failed_turns"] == 48
    assert all("block 0 of the prompt" in reason for reason in policy["failures"])


def test_a_block_that_is_kept_before_its_bytes_come_fails_in_the_next_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    meddle(monkeypatch, Persist, late)
    policy = play(tmp_path, capsys, code=1)["dualpath"]
    assert policy["failed_turns"] == policy["completed_turns"] == 24
    assert policy["tokens_equal"] == policy["tokens_checked"]
    assert all("digest" in reason for reason in policy["failures"])


def test_the_plain_world_moves_no_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("real KV was made")

    monkeypatch.setattr(HeldKv, "__init__", refuse)
    play(tmp_path, capsys, "engine.real_kv=false")

"""What each host is told: names, sizes in whole blocks, groups, and who hears of a failure."""

import itertools
from pathlib import Path

import msgspec
import pytest

from engines.agents import AgentsConfig
from engines.config import (
    BufferConfig,
    DecodeConfig,
    PrefillConfig,
    ServiceConfig,
    StorageConfig,
)
from engines.kv import address_space
from testbed.errors import InputError
from testbed.policies import choose_one
from testbed.spec import Experiment, load_experiment
from testbed.workload import build_workload
from testbed.worlds.layout import Layout
from testbed.worlds.plan import HostPlan, LabPlan

FILE = Path(__file__).parents[2] / "topologies" / "1p2d.yaml"


def layout(*settings: str, policy: str = "dualpath") -> Layout:
    base = ("workload.agents=8", "workload.openings=3", "workload.mid_decode=0")
    experiment: Experiment = load_experiment(FILE, [*base, *settings])
    workload = build_workload(experiment.workload, experiment.seed)
    return Layout(experiment, workload, choose_one(policy), Path("folder"), Path("cache"))


def plan(*settings: str, policy: str = "dualpath") -> LabPlan:
    return layout(*settings, policy=policy).plan(7)


def hosts(lab: LabPlan, kind: type) -> list[HostPlan]:
    return [host for host in lab.hosts if isinstance(host.role, kind)]


def test_a_folded_cluster_has_one_gpu_host_a_node() -> None:
    lab = plan()
    assert [host.name for host in lab.hosts] == [
        "store0", "pe0-buf", "de0-buf", "de1-buf", "pe0-gpu", "de0-gpu", "de1-gpu", "sched",
        "agents",
    ]  # fmt: skip
    (prefill,) = hosts(lab, PrefillConfig)
    assert prefill.role.lanes == tuple(f"pe0/{lane}" for lane in range(8))


def test_an_unfolded_cluster_has_one_host_a_gpu() -> None:
    lab = plan("cluster.folded=false", "cluster.gpus_per_node=2", "cluster.storage_hosts=2")
    gpus = [h.name for h in [*hosts(lab, PrefillConfig), *hosts(lab, DecodeConfig)]]
    assert gpus == ["pe0-gpu0", "pe0-gpu1", "de0-gpu0", "de0-gpu1", "de1-gpu0", "de1-gpu1"]
    assert {len(h.role.lanes) for h in hosts(lab, DecodeConfig)} == {1}
    assert [h.name for h in hosts(lab, StorageConfig)] == ["store0", "store1"]
    (service,) = hosts(lab, ServiceConfig)
    assert service.role.engine_hosts["de1/1"] == "de1-gpu1"


@pytest.mark.parametrize("folded", ["true", "false"])
def test_regions_hold_all_that_their_owner_hands_out(folded: str) -> None:
    lab = plan(f"cluster.folded={folded}", "cluster.gpus_per_node=4")
    by_name = {host.name: host for host in lab.hosts}
    for host in lab.hosts:
        assert all(tokens % 64 == 0 and tokens > 0 for tokens in host.pools.values())
    for host in hosts(lab, DecodeConfig):
        role = host.role
        assert host.pools["hbm"] == len(role.lanes) * address_space(role.lane_tokens, 64)
        region = by_name[role.buffer].pools["persist"]
        assert role.persist_base + address_space(role.persist_tokens, 64) <= region
    for host in hosts(lab, PrefillConfig):
        assert host.pools["hbm"] == address_space(host.role.pool_tokens, 64)
    inbox = by_name["store0"].pools["inbox"]
    parts = sorted(
        (h.role.inbox_base, address_space(h.role.inbox_tokens, 64))
        for h in hosts(lab, BufferConfig)
    )
    for (base, tokens), (after, _) in zip(parts, [*parts[1:], (inbox, 0)], strict=True):
        assert base + tokens <= after


def test_places_of_decode_hosts_in_their_buffers_region_do_not_overlap() -> None:
    lab = plan("cluster.folded=false", "cluster.gpus_per_node=4")
    parts = sorted(
        (h.role.persist_base, address_space(h.role.persist_tokens, 64))
        for h in hosts(lab, DecodeConfig)
        if h.role.buffer == "de0-buf"
    )
    assert len(parts) == 4
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(parts))


def test_every_memory_holds_the_longest_context() -> None:
    lab = plan()
    longest = layout()._longest
    for host in lab.hosts:
        for region in ("stage", "dram", "hbm"):
            assert host.pools.get(region, longest) >= longest
    assert all(h.role.inbox_tokens >= longest for h in hosts(lab, BufferConfig))
    assert lab.world.padded_rows * lab.world.layout.token_scale > longest


def test_one_group_for_each_node_or_for_several() -> None:
    lab = plan("cluster.group_nodes=2")
    groups = {h.role.group.name: h.role.group for h in hosts(lab, BufferConfig)}
    assert set(groups) == {"pe-group0", "de-group0"}
    decode = groups["de-group0"]
    assert decode.engines == ("de0-gpu", "de1-gpu") and decode.leader == "de0-gpu"
    assert decode.members == ("de0-gpu", "de1-gpu", "de0-buf", "de1-buf")
    assert {h.role.group for h in hosts(lab, DecodeConfig)} == {decode}
    alone = {h.role.group.name for h in hosts(plan(), DecodeConfig)}
    assert alone == {"de-group0", "de-group1"}


def test_failures_are_told_to_everybody_but_storage_and_teller() -> None:
    lab = plan()
    for host in hosts(lab, BufferConfig):
        wanted = {h.name for h in lab.hosts} - {"store0", host.name}
        assert set(host.role.everyone) == wanted
    (agents,) = hosts(lab, AgentsConfig)
    assert set(agents.role.everyone) == {h.name for h in lab.hosts} - {"agents"}


def test_nodes_may_have_a_rate_of_their_own() -> None:
    wires = plan("nodes.de1.snic_share=0.35").wires
    assert wires.snic_overrides_bps["de1-buf"] == pytest.approx(wires.snic_bps / 2)
    assert set(wires.snic_overrides_bps) == {"de1-buf"}
    assert wires.cnic_bps == wires.node_bps  # folded: one host with all of a node's NICs
    apart = plan("cluster.folded=false").wires
    assert apart.cnic_bps == pytest.approx(apart.node_bps / 8)


def test_a_policy_gets_only_the_knobs_that_it_has() -> None:
    assert set(layout(policy="basic").knobs) == {"read_ahead", "max_tokens"}
    assert set(layout().knobs) == {"quota_s"}
    changed = layout("engine.read_ahead=5", policy="basic")
    assert changed.traits.read_ahead == 5
    (buffer, *_) = hosts(changed.plan(1), BufferConfig)
    assert buffer.role.read_ahead == 5


def test_pipeline_of_basic_is_what_prefill_nodes_read_and_two_forwards() -> None:
    # 10 reads in flight at one prefill node, two forwards on eight lanes: 8,192 tokens are 18
    # turns, but the node's buffer feeds each lane with 15.
    assert layout(policy="basic").pipeline_turns == 10 + 2 * 8 * 15
    small = layout("engine.max_forward_tokens=923", policy="basic")
    assert small.pipeline_turns == 10 + 2 * 8 * 2
    # All three nodes read; a forward's quota of 0.3 s holds five turns of 57 ms.
    assert layout().pipeline_turns == 30 + 2 * 8 * 5


def test_unknown_policies_and_workloads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="dualpath"):
        layout(policy="dualpth")
    with pytest.raises(InputError, match="longest context"):
        layout("hardware.hbm_kv_bytes_per_gpu=1e8", "engine.prefill_gpu_pool_bytes=1e7")


def test_the_plan_survives_its_file() -> None:
    lab = plan(policy="basic")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(lab), type=LabPlan) == lab


def test_a_decode_quantum_is_one_emulated_token() -> None:
    lab = plan("scale.token_scale=16")
    assert {h.role.kv.quantum_tokens for h in hosts(lab, DecodeConfig)} == {16}

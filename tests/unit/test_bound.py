"""The printed bound: each term by hand, and which one binds."""

import pytest

from testbed.bound import Bound, Reads, bound, reads_of
from testbed.spec import Cluster, EngineKnobs, Experiment, NodeSpec
from testbed.spec_profiles import HardwareProfile, ModelProfile
from testbed.spec_workload import FixedWorkload
from testbed.workload import Load

# One token weighs 1 byte and takes 1 ms of a GPU, whatever its context.
MODEL = ModelProfile(
    name="unit", kv_bytes_per_token_layer=1, layers=1, per_token_s=1e-3, per_pair_s=0, tpot_s=0.1
)
HARDWARE = HardwareProfile(
    name="unit",
    snic_bytes_per_s=1000,
    snic_share=0.5,
    cnic_bytes_per_s=1000,
    dram_bytes_per_s=10_000,
    hbm_kv_bytes_per_gpu=128_000,
    dram_buffer_bytes=128_000,
)
TURNS = [Load(prompt_tokens=740, hit_tokens=640, generate_tokens=11)]


def limit(
    reads: Reads,
    nodes: dict[str, NodeSpec] | None = None,
    shape: tuple[int, int] = (1, 2),
    agents: int = 10_000,
    offered: float = float("inf"),
) -> Bound:
    experiment = Experiment(
        cluster=Cluster(prefill_nodes=shape[0], decode_nodes=shape[1], gpus_per_node=4),
        model=MODEL,
        hardware=HARDWARE,
        workload=FixedWorkload(agents=1),
        engine=EngineKnobs(prefill_gpu_pool_bytes=1000),
        nodes=nodes or {},
    )
    return bound(experiment, TURNS, reads, agents, offered)


def test_terms_by_hand_for_reads_on_the_prefill_side() -> None:
    terms = limit(Reads.PE).terms
    assert terms["PE compute"] == pytest.approx(4 / 0.1)
    assert terms["SNICs"] == pytest.approx(500 / 640)
    # PE GPUs out: H + m of 4 x 1000; DE side in and out: H + m of twice that.
    assert terms["CNICs"] == pytest.approx(4000 / 740)
    assert terms["DRAM"] == pytest.approx(10_000 / (2 * 640))
    # 2 nodes x 4 GPUs x 128,000 tokens, each turn holding 751 tokens for 10 x 0.1 s.
    assert terms["DE HBM"] == pytest.approx(1_024_000 / (751 * 1.0))
    assert terms["agents in flight"] == pytest.approx(10_000 / (640 / 500 + 0.1 + 1.0))


def test_terms_by_hand_for_reads_on_both_sides() -> None:
    terms = limit(Reads.BOTH).terms
    assert terms["SNICs"] == pytest.approx(3 * 500 / 640)
    # Two thirds of the reads are on the DE side, and cross its buffers' ports twice.
    assert terms["CNICs"] == pytest.approx(4000 / 640)
    assert terms["DRAM"] == pytest.approx(20_000 / (2 * 740 + 640 * 2 / 3))


def test_half_of_the_reads_on_either_side_leaves_the_larger_side_idle() -> None:
    # One PE node reads half of all bytes, two DE nodes the other half.
    assert limit(Reads.HALF).terms["SNICs"] == pytest.approx(2 * 500 / 640)
    assert limit(Reads.HALF, shape=(2, 1)).terms["SNICs"] == pytest.approx(2 * 500 / 640)
    known = {"basic": Reads.PE, "round-robin": Reads.HALF, "dualpath": Reads.BOTH}
    assert {name: reads_of(name) for name in known} == known


def test_smallest_term_binds() -> None:
    assert limit(Reads.PE).binds == "SNICs"
    assert limit(Reads.PE).turns_per_s == limit(Reads.PE).terms["SNICs"]
    few = limit(Reads.BOTH, agents=1)
    assert few.binds == "agents in flight"


def test_agents_that_arrive_one_by_one_bring_no_more_than_is_offered() -> None:
    assert "arrivals" not in limit(Reads.BOTH).terms
    slow = limit(Reads.BOTH, offered=0.01)
    assert (slow.binds, slow.turns_per_s) == ("arrivals", 0.01)
    fast = limit(Reads.BOTH, offered=1e5)
    assert fast.binds == "SNICs" and fast.terms["arrivals"] == 1e5


def test_decode_nodes_add_storage_only_if_they_read() -> None:
    one, two = (limit(Reads.PE, shape=(1, decode)) for decode in (1, 2))
    assert one.terms["SNICs"] == two.terms["SNICs"]
    one, two = (limit(Reads.BOTH, shape=(1, decode)) for decode in (1, 2))
    assert two.terms["SNICs"] / one.terms["SNICs"] == pytest.approx(3 / 2)


def test_a_slow_node_costs_what_it_lacks() -> None:
    slow = {"de1": NodeSpec(snic_share=0.25)}
    assert limit(Reads.BOTH, slow).terms["SNICs"] == pytest.approx((500 + 500 + 250) / 640)
    assert limit(Reads.PE, slow).terms["SNICs"] == pytest.approx(500 / 640)
    assert limit(Reads.DE, slow).terms["SNICs"] == pytest.approx((500 + 250) / 640)


def test_turns_without_hits_or_decode_are_not_bound_by_storage() -> None:
    experiment_terms = bound(
        Experiment(
            cluster=Cluster(prefill_nodes=1, decode_nodes=1, gpus_per_node=1),
            model=MODEL,
            hardware=HARDWARE,
            workload=FixedWorkload(agents=1),
        ),
        [Load(prompt_tokens=100, hit_tokens=0, generate_tokens=1)],
        Reads.PE,
        5,
    ).terms
    assert not {"SNICs", "DE HBM", "arrivals"} & set(experiment_terms)
    assert experiment_terms["PE compute"] == pytest.approx(10.0)

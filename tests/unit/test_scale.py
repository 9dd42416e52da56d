"""The scaling law keeps what it promises to keep."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.layout import KvLayout
from testbed.scale import KV_WIDTH, Scaling, dimensionless, scaling
from testbed.spec import BLOCK_TOKENS, Cluster, Experiment, ScaleSpec
from testbed.spec_profiles import HardwareProfile, ModelProfile
from testbed.spec_workload import FixedWorkload
from testbed.workload import build_workload, loads

MODEL = ModelProfile(
    name="m",
    kv_bytes_per_token_layer=656,
    layers=30,
    per_token_s=92.68e-6,
    per_pair_s=1.206e-9,
    tpot_s=0.039,
)
HARDWARE = HardwareProfile(
    name="h",
    snic_bytes_per_s=50e9,
    snic_share=0.7,
    cnic_bytes_per_s=50e9,
    dram_bytes_per_s=500e9,
    hbm_kv_bytes_per_gpu=70e9,
    dram_buffer_bytes=80e9,
)


def experiment(scale: ScaleSpec) -> Experiment:
    return Experiment(
        cluster=Cluster(prefill_nodes=1, decode_nodes=2),
        model=MODEL,
        hardware=HARDWARE,
        workload=FixedWorkload(agents=50),
        scale=scale,
    )


def test_worked_point_of_the_law() -> None:
    law = scaling(experiment(ScaleSpec()))
    assert law.row_bytes == 1280
    assert law.byte_scale == pytest.approx(1280 / (64 * 19_680))
    assert law.bps(35e9) == pytest.approx(142.28e6, rel=1e-3)
    assert law.seconds(0.5) == 1.0
    assert law.rows(127) == 1


def test_row_bytes_are_those_of_the_pool() -> None:
    layout = KvLayout(token_scale=64, block_tokens=BLOCK_TOKENS, layers=4, width=KV_WIDTH)
    assert scaling(experiment(ScaleSpec())).row_bytes == layout.row_bytes


@given(
    st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
    st.floats(0.1, 20),
    st.integers(1, 61),
    st.floats(1.0, 1e12),
)
def test_there_and_back_again(n: int, tau: float, layers: int, amount: float) -> None:
    law = Scaling(n, tau, layers * 320, 19_680.0)
    assert law.target_bytes(law.bytes(amount)) == pytest.approx(amount)
    assert law.target_bytes_per_s(law.bps(amount)) == pytest.approx(amount)
    assert law.target_s(law.seconds(amount)) == pytest.approx(amount)
    # A transfer lasts as long, in target seconds, as it does in the target.
    emulated_s = law.bytes(amount) * 8 / law.bps(35e9)
    assert law.target_s(emulated_s) == pytest.approx(amount / 35e9)


@pytest.mark.parametrize("n", [1, 16, 64])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_dimensionless_numbers_survive(n: int, tau: float) -> None:
    scale = msgspec.convert({"token_scale": n, "time_scale": tau}, ScaleSpec)
    setup = experiment(scale)
    turns = list(loads(build_workload(setup.workload, 0), BLOCK_TOKENS))
    ratios = {ratio.name: ratio for ratio in dimensionless(setup, turns)}
    assert set(ratios) == {"hit rate", "P/D", "CNIC : SNIC", "load : compute"}
    for name, ratio in ratios.items():
        # Prompts lose their tail below one emulated token, hits (whole blocks) lose nothing.
        assert ratio.emulated == pytest.approx(ratio.target, rel=2e-3), name
    assert ratios["load : compute"].emulated == pytest.approx(ratios["load : compute"].target)

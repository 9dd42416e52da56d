"""What collectives weigh: from the model, in proportion to KV at every scale."""

from pathlib import Path

import pytest

from testbed.scale import scaling
from testbed.spec import Experiment, load_experiment
from testbed.worlds.exchange import LEAST_BYTES, exchange

TOPOLOGIES = Path(__file__).parents[2] / "topologies"


def experiment(*overrides: str) -> Experiment:
    return load_experiment(TOPOLOGIES / "isolation.yaml", overrides)


def test_a_token_goes_once_to_each_host_that_has_one_of_its_experts() -> None:
    one = experiment("model=deepseek-v3.2-660b", "scale.layers=1")
    found = exchange(one, 2)
    # Of eight experts on two hosts, some are on the other one in all but one of 2^8 cases.
    target = 7168 * 61 * (1 - 0.5**8)
    assert scaling(one).target_bytes(found.dispatch_bytes) == pytest.approx(target)
    assert found.combine_bytes == pytest.approx(2 * found.dispatch_bytes)


@pytest.mark.parametrize("scale", [(1, 1), (8, 2), (64, 4)])
def test_collectives_keep_their_ratio_to_kv_at_every_scale(scale: tuple[int, int]) -> None:
    tokens, layers = scale
    one = experiment(f"scale.token_scale={tokens}", f"scale.layers={layers}")
    found = exchange(one, 4)
    kv_bytes = scaling(one).row_bytes / tokens
    ratio = (found.dispatch_bytes + found.combine_bytes) * layers / kv_bytes
    reached = 1 - (3 / 4) ** 6
    assert ratio == pytest.approx(3 * 2560 * 30 * reached / one.model.kv_bytes_per_token)


def test_what_crosses_no_network_weighs_nothing_but_the_least() -> None:
    assert exchange(experiment(), 1).dispatch_bytes == 0
    dense = exchange(experiment("model=qwen2.5-32b"), 4)
    assert dense.combine_bytes == 0 and dense.least_bytes == LEAST_BYTES


def test_a_link_and_what_an_idle_one_takes_are_told_in_target_seconds() -> None:
    slow, fast = exchange(experiment("scale.time_scale=4"), 4), exchange(experiment(), 4)
    assert slow.bytes_per_s == pytest.approx(fast.bytes_per_s)
    law = scaling(experiment())
    assert fast.bytes_per_s == pytest.approx(law.bytes(experiment().hardware.cnic_bytes_per_s))
    assert slow.idle_s == fast.idle_s / 2

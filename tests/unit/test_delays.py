"""Delays in an experiment: bounds, single nodes, sums over ways, and who is told what."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.delays import cluster_shape, link_delays_s, path_delay_s, peer_delays_s, ways_s
from testbed.errors import InputError
from testbed.facts import facts, text
from testbed.ideal import as_played
from testbed.policies import choose, choose_one
from testbed.spec import Experiment, load_experiment
from testbed.workload import build_workload
from testbed.worlds.layout import Layout

FILE = Path(__file__).parents[2] / "topologies" / "1p2d.yaml"
KINDS = ("snic", "cnic", "pcie", "uplink", "storage")


def load(*settings: str) -> Experiment:
    return load_experiment(FILE, ["workload.agents=8", *settings])


@pytest.mark.parametrize(("setting", "says"), [
    ("delays.snic=10", "delays.snic is 10; it must be a number at least 0 and below 10"),
    ("delays.uplink=-0.1", "at least 0 and below 10"),
    ("delays.pcie=soon", "delays.pcie is 'soon'"),
    ("delays.snik=0.1", "nearest known: 'snic'"),
    ("nodes.de1.cnic_delay_s=10", "nodes.de1.cnic_delay_s is 10"),
    ("nodes.de2.snic_delay_s=0.1", "no node 'de2'"),
    ("nodes.de1={}", "nothing is said of node 'de1'"),
])  # fmt: skip
def test_delays_out_of_bounds_or_of_nothing_are_refused(setting: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load(setting)
    assert says in str(caught.value)


def test_a_node_may_differ_in_one_thing_and_be_as_the_others_in_the_rest() -> None:
    experiment = load(
        "delays.snic=0.001", "delays.uplink=0.002", "nodes.de1.snic_delay_s=0.5",
        "nodes.de0.snic_share=0.3", "nodes.pe0.uplink_delay_s=0",
    )  # fmt: skip
    assert link_delays_s(experiment, cluster_shape(experiment)) == {
        "pe0-buf:snic": 0.001, "de0-buf:snic": 0.001, "de1-buf:snic": 0.5, "de0:uplink": 0.002,
        "de1:uplink": 0.002,
    }  # fmt: skip
    assert experiment.snic_bytes_per_s("de1") == experiment.snic_bytes_per_s("pe0")
    assert experiment.snic_bytes_per_s("de0") == pytest.approx(15e9)
    assert msgspec.json.decode(msgspec.json.encode(experiment), type=Experiment) == experiment


@given(st.tuples(*[st.integers(0, 9999) for _ in KINDS]), st.booleans())
def test_a_ways_delay_is_the_sum_over_its_links_and_the_same_both_ways(
    milliseconds: tuple[int, ...], folded: bool
) -> None:
    delays = dict(zip(KINDS, (ms / 1000 for ms in milliseconds), strict=True))
    experiment = load(
        *(f"delays.{kind}={delay_s}" for kind, delay_s in delays.items()),
        f"cluster.folded={str(folded).lower()}",
    )
    shape = cluster_shape(experiment)
    found = link_delays_s(experiment, shape)
    pe, de = shape.gpu_hosts("pe0")[-1], shape.gpu_hosts("de1")[-1]
    snic, cnic, pcie, uplink, storage = (delays[kind] for kind in KINDS)
    for near, far, expected_s in (
        ("store0", "de1-buf", storage + snic),
        ("pe0-buf", "de0-buf", 2 * snic),  # they meet on the storage network
        ("de1-buf", de, pcie + cnic),
        (pe, "de1-buf", cnic + 2 * uplink + pcie),
        (pe, de, 2 * cnic + 2 * uplink),
        (pe, "sched", 0.0),
        (pe, "store0", 0.0),
    ):
        assert path_delay_s(shape, found, near, far) == pytest.approx(expected_s)
        assert path_delay_s(shape, found, far, near) == pytest.approx(expected_s)


def test_a_host_is_told_of_the_peers_that_it_reaches_late_alone() -> None:
    experiment = load("delays.pcie=0.25", "nodes.de1.uplink_delay_s=0.5")
    shape = cluster_shape(experiment)
    everyone = [nic.host for nic in shape.nics()]
    found = peer_delays_s(shape, link_delays_s(experiment, shape), "de0-buf", everyone)
    assert found == {"pe0-gpu": 0.25, "de0-gpu": 0.25, "de1-gpu": 0.75}


def test_delays_reach_the_plan_and_not_the_cluster_without_io() -> None:
    experiment = load("delays.snic=0.25", "nodes.de1.cnic_delay_s=0.5", "nodes.de1.snic_share=0.2")
    workload = build_workload(experiment.workload, experiment.seed)
    wires = [
        Layout(experiment, workload, choose_one(name), Path(), Path()).plan(1).wires
        for name in ("dualpath", "oracle")
    ]
    assert wires[0].delays_s["de1-gpu:cnic"] == 0.5 and len(wires[0].delays_s) == 4
    assert wires[1].delays_s == {}
    ideal = as_played(experiment, choose_one("oracle"))
    share = ideal.snic_bytes_per_s("de1") / ideal.snic_bytes_per_s("de0")
    assert share == pytest.approx(0.2 / 0.7)


def test_validate_shows_the_longest_ways_and_nothing_where_there_are_none() -> None:
    def shown(*settings: str) -> str:
        experiment = load(*settings)
        workload = build_workload(experiment.workload, experiment.seed)
        return " ".join(text(facts("x", experiment, workload, choose(("basic",))), 100).split())

    assert "delay" not in shown()
    found = shown("delays.snic=0.002", "delays.uplink=0.005", "nodes.de1.snic_delay_s=0.004")
    assert "storage to buffer 4, buffer to its GPUs 0, PE GPUs to DE buffer 10" in found


def test_of_many_nodes_that_are_alike_one_is_enough() -> None:
    experiment = load(
        "cluster.prefill_nodes=1000", "cluster.decode_nodes=1000", "delays.snic=0.001",
        "nodes.pe999.uplink_delay_s=1", "nodes.de500.uplink_delay_s=2",
    )  # fmt: skip
    assert ways_s(experiment) == {
        "storage to buffer": 0.001, "buffer to its GPUs": 0.0, "PE GPUs to DE buffer": 3.0,
    }  # fmt: skip

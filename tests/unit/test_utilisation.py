"""Shares of links and memories from counters made by hand."""

from pathlib import Path

import pytest

from testbed.policies import choose_one
from testbed.results.utilisation import by_kind, capacities, utilisation
from testbed.spec import load_experiment
from testbed.workload import build_workload
from testbed.worlds.layout import Layout
from testbed.worlds.plan import LabPlan
from testbed.worlds.samples import PortBytes, Sample, Samples

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"


def plan(*settings: str) -> LabPlan:
    experiment = load_experiment(FILE, ["workload.agents=2", *settings])
    workload = build_workload(experiment.workload, 0)
    return Layout(experiment, workload, choose_one("dualpath"), Path(), Path()).plan(0)


def samples(*ports: tuple[str, str, float, float]) -> Samples:
    """Counters that rise by so many bytes a real second, from second 10 on."""
    seconds = [0.0, 10.0, 30.0, 50.0]
    found = [
        Sample(
            100.0 + at,
            tuple(
                PortBytes(host, nic, int(max(0, at - 10) * rx), int(max(0, at - 10) * tx))
                for host, nic, rx, tx in ports
            ),
            0.0, 0.0, 0.0,
        )
        for at in seconds
    ]  # fmt: skip
    return Samples(100.0, found, {}, 0.0)


def test_a_links_share_is_its_rate_in_the_window_over_its_capacity() -> None:
    lab = plan("scale.time_scale=2")
    capacity = capacities(lab.wires)["pe0-gpu", "cnic"]
    counted = samples(("pe0-gpu", "cnic", capacity / 2, capacity / 4))
    # The window is in target seconds, of two real ones each: 10 to 30 s and 0 to 20 s.
    found = utilisation(lab, counted, (5.0, 15.0))
    assert found["pe0-gpu:cnic:rx"] == pytest.approx(0.5, rel=1e-3)
    assert found["pe0-gpu:cnic:tx"] == pytest.approx(0.25, rel=1e-3)
    found = utilisation(lab, counted, (0.0, 10.0))
    assert found["pe0-gpu:cnic:rx"] == pytest.approx(0.25, rel=1e-3)
    assert "de0-gpu:cnic:rx" not in found  # nobody counted it


def test_all_gpus_of_a_folded_node_are_one_link_of_their_rates_together() -> None:
    one, eight = plan("cluster.gpus_per_node=1").wires, plan().wires
    assert capacities(eight)["pe0-gpu", "cnic"] == 8 * capacities(one)["pe0-gpu", "cnic"]
    assert capacities(eight)["pe0-gpu", "cnic"] == capacities(eight)["pe0-buf", "pcie"]


@pytest.mark.parametrize("time_scale", [1, 4])
def test_a_memorys_share_is_all_that_enters_and_leaves_it_but_for_storage(time_scale: int) -> None:
    lab = plan(f"scale.time_scale={time_scale}", "hardware.snic_share=1")
    # DRAM is worth ten storage NICs in the profile.
    snic = capacities(lab.wires)["de0-buf", "snic"]
    counted = samples(
        ("de0-buf", "snic", snic, 9 * snic), ("de0-buf", "pcie", 2 * snic, 3 * snic)
    )  # fmt: skip
    found = utilisation(lab, counted, (20 / time_scale, 40 / time_scale))
    assert found["de0:dram"] == pytest.approx(0.6, rel=1e-3)
    assert found["pe0:dram"] == 0.0


def test_kinds_are_means_of_their_parts_and_storage_nics_are_one_kind() -> None:
    shares = {
        "pe0-buf:snic:rx": 1.0, "de0-buf:snic:rx": 0.5, "de0-buf:snic:tx": 0.1,
        "pe0-gpu:cnic:rx": 0.2, "pe1-gpu:cnic:rx": 0.4, "de0:uplink:tx": 0.3,
        "de0:dram": 0.9, "store0:snic:tx": 0.99,
    }  # fmt: skip
    assert by_kind(shares) == pytest.approx({
        "SNICs": 0.75, "DE snic tx": 0.1, "PE cnic rx": 0.3, "DE uplink tx": 0.3, "DE dram": 0.9,
    })  # fmt: skip

"""The most loaded storage NIC over the mean, from counters made by hand."""

from itertools import accumulate
from pathlib import Path

import pytest

from engines.service import Decided
from scheduler.types import Decision, ReadExtent, Side
from testbed.policies import choose_one
from testbed.results.balance import Balance, balance
from testbed.results.utilisation import capacities
from testbed.spec import load_experiment
from testbed.workload import build_workload
from testbed.worlds.layout import Layout
from testbed.worlds.plan import LabPlan
from testbed.worlds.samples import PortBytes, Sample, Samples

FILE = Path(__file__).parents[2] / "topologies" / "1p2d.yaml"
NODES = ("pe0", "de0", "de1")


def plan(*settings: str) -> LabPlan:
    experiment = load_experiment(FILE, ["workload.agents=2", *settings])
    workload = build_workload(experiment.workload, 0)
    return Layout(experiment, workload, choose_one("dualpath"), Path(), Path()).plan(0)


def loaded(lab: LabPlan, *shares: tuple[float, float, float]) -> Samples:
    """Each NIC's load in each target second, as shares of its rate; counters start at 100 s."""
    scale = lab.world.time_scale
    rates = capacities(lab.wires)
    columns = [
        list(accumulate((share * rates[f"{node}-buf", "snic"] * scale for share in column),
                        initial=0.0))
        for node, column in zip(NODES, zip(*shares, strict=True), strict=True)
    ]  # fmt: skip
    found = [
        Sample(
            100.0 + second * scale,
            tuple(
                PortBytes(f"{node}-buf", "snic", round(column[second]), 0)
                for node, column in zip(NODES, columns, strict=True)
            ),
            0.0, 0.0, 0.0,
        )
        for second in range(len(shares) + 1)
    ]  # fmt: skip
    return Samples(100.0, found, {}, 0.0)


def read(count: int, end_s: float, reads: int = 1) -> list[Decided]:
    """Evenly until `end_s`, the last one at it."""
    extents = tuple(ReadExtent(Side.PE, number, 1) for number in range(reads))
    return [
        Decided(end_s * (n + 1) / count, Decision(n + 1, n, "pe0/0", "de0/0", extents))
        for n in range(count)
    ]


def test_alike_is_1_and_one_nic_alone_is_their_number() -> None:
    lab = plan()
    even = balance(lab, loaded(lab, (0.5, 0.5, 0.5)), read(300, 1.0), (0.0, 1.0))
    assert even == Balance(pytest.approx(1.0, rel=1e-3), pytest.approx(1.0, rel=1e-3), 1, 100.0)
    one = balance(lab, loaded(lab, (0.9, 0.0, 0.0)), read(300, 1.0), (0.0, 1.0))
    assert one.max_over_mean == pytest.approx(3.0)


@pytest.mark.parametrize("time_scale", [1, 4])
def test_each_window_holds_100_reads_a_nic_and_none_hides_another(time_scale: int) -> None:
    lab = plan(f"scale.time_scale={time_scale}")
    # The NICs take turns in being loaded twice as much: even over all, uneven in each window.
    samples = loaded(lab, (0.6, 0.3, 0.3), (0.3, 0.6, 0.3), (0.3, 0.3, 0.6))
    found = balance(lab, samples, read(900, 3.0), (0.0, 3.0))
    assert (found.windows, found.reads_per_snic) == (3, 100.0)
    assert found.max_over_mean == pytest.approx(1.5, rel=1e-3)
    # 899 reads are no three windows, and those of 449 hold 1.5 s each.
    longer = balance(lab, samples, read(899, 3.0), (0.0, 3.0))
    assert longer.windows == 2 and longer.max_over_mean < 1.5


def test_the_worst_window_is_told_beside_their_mean() -> None:
    lab = plan()
    samples = loaded(lab, (0.3, 0.3, 0.3), (0.9, 0.0, 0.0))
    found = balance(lab, samples, read(600, 2.0), (0.0, 2.0))
    assert (found.max_over_mean, found.worst) == (pytest.approx(2.0), pytest.approx(3.0))


def test_a_read_of_both_sides_counts_on_both() -> None:
    lab = plan()
    found = balance(lab, loaded(lab, (0.5, 0.5, 0.5)), read(150, 1.0, reads=2), (0.0, 1.0))
    assert found.reads_per_snic == 100.0


def test_a_slow_nic_is_as_loaded_as_a_fast_one_at_half_its_bytes() -> None:
    lab = plan("nodes.de1.snic_share=0.35")
    found = balance(lab, loaded(lab, (0.8, 0.8, 0.8)), read(300, 1.0), (0.0, 1.0))
    assert found.max_over_mean == pytest.approx(1.0, rel=1e-3)


def test_too_few_reads_are_one_window_that_says_so_and_none_have_no_balance() -> None:
    lab = plan()
    samples = loaded(lab, (0.2, 0.1, 0.0))
    few = balance(lab, samples, read(30, 1.0), (0.0, 1.0))
    assert (few.windows, few.reads_per_snic) == (1, 10.0)
    assert few.max_over_mean == pytest.approx(2.0, rel=1e-3)
    nothing = Balance(0.0, 0.0, 0, 0.0)
    assert balance(lab, samples, read(30, 1.0), (2.0, 3.0)) == nothing
    assert balance(lab, loaded(lab, (0.0, 0.0, 0.0)), read(30, 1.0), (0.0, 1.0)) == nothing

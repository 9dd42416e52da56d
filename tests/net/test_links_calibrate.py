"""Links reach their rates, are measured without a trace, and are refused where they cannot."""

import pytest
from links_play import play


def test_ten_mbit_and_one_gbit_are_reached_and_measuring_leaves_no_trace() -> None:
    report = play("calibrated")
    measured = {(one["nic"], one["asked_bps"]): one for one in report["measured"]}
    # One of each nic and rate: 1P1D has nine links.
    assert set(measured) == {
        ("snic", 1e7), ("pcie", 1e7), ("cnic", 1e7), ("uplink", 1e7), ("uplink", 1e9),
    }  # fmt: skip
    for one in measured.values():
        assert one["measured_bps"] == pytest.approx(one["asked_bps"], rel=0.03), one
    assert [(one["owner"], one["asked_bps"]) for one in report["fastest"]] == [("pe0", 1e9)]
    # The fast uplink is measured through slower links, which are as before afterwards.
    assert report["after"] == report["before"]
    assert len(report["counters"]) > 9
    assert all(counted == [0, 0, 0, 0] for counted in report["counters"])
    assert len(report["classes"]) == 9 * 2 * 2
    assert all(counted == [0, 0, 0] for counted in report["classes"])


def test_a_rate_that_this_machine_cannot_carry_is_refused_by_name() -> None:
    report = play("calibration_refused")
    code, message = report["refused"]
    assert code == 4
    assert "pe0:uplink was to carry 4,000,000.0 Mbit/s of payload and carries" in message
    assert "scale.time_scale" in message
    assert report["after"] == report["before"]

"""Links that change while they live: one value changes, the others stay, and reset undoes it."""

from typing import Any

import pytest
from links_play import play

LINKS = 9  # of 1P1D


def wire_bytes_per_s(payload_bps: float) -> int:
    return int(payload_bps * 1514 / 1448 / 8)


def without(reports: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in reports.items() if key != name}


def test_one_value_changes_the_others_stay_and_reset_returns_to_the_topologys() -> None:
    report = play("one_value_changes")
    before, rates_before = report["before"]
    changed, rates_changed = report["changed"]
    assert len(before) == LINKS
    assert changed["pe0-gpu:cnic"] == {**before["pe0-gpu:cnic"], "payload_bps": 5e7}
    assert report["answer"] == changed["pe0-gpu:cnic"]
    assert without(changed, "pe0-gpu:cnic") == without(before, "pe0-gpu:cnic")
    assert rates_changed["pe0-gpu:cnic"] == 2 * [wire_bytes_per_s(5e7)]
    assert without(rates_changed, "pe0-gpu:cnic") == without(rates_before, "pe0-gpu:cnic")
    assert report["one_reset"]["pe0:uplink"]["payload_bps"] == 3e7
    assert without(report["one_reset"], "pe0:uplink") == without(before, "pe0:uplink")
    assert report["reset"] == report["before"]


def test_a_link_without_rate_is_shaped_when_it_gets_one_and_unshaped_by_reset() -> None:
    report = play("unshaped_link")
    assert report["before"][1] == [0, 0]
    state, rates = report["shaped"]
    assert (state["payload_bps"], state["nominal_bps"]) == (4e7, None)
    assert rates == 2 * [wire_bytes_per_s(4e7)]
    (measured,) = report["measured"]
    assert measured["nic"] == "cnic"
    assert measured["measured_bps"] == pytest.approx(4e7, rel=0.03)
    assert report["reset"] == report["before"]


def test_what_cannot_be_is_refused_and_changes_nothing() -> None:
    report = play("refused")
    expected = {
        "unknown": (2, "no data link pe0-gpu:cnik; nearest link: 'pe0-gpu:cnic'"),
        "unknown reset": (2, "no data link pe0:up; nearest link: 'pe0:uplink'"),
        "beyond": (4, "pe0-gpu:cnic was to carry 4,000,000.0 Mbit/s"),
        "slow": (2, "99000 bit/s for pe0-gpu:cnic"),
        "no number": (2, "nan bit/s for pe0-gpu:cnic"),
        "negative": (2, "a delay of -1 s for pe0-gpu:cnic"),
        "host": (2, "no host pe0-gpi; nearest host: 'pe0-gpu'"),
        "mark host": (2, "no host nobody"),
        "mark protocol": (2, "'icmp'"),
        "mark port": (2, "0 is no port"),
        "mark dscp": (2, "64 is no DSCP"),
        "unmark": (2, "no such mark for tcp port 1 on all hosts"),
    }
    assert report["refusals"].keys() == expected.keys()
    for name, (code, words) in expected.items():
        assert report["refusals"][name][0] == code, name
        assert words in report["refusals"][name][1]
    assert report["after"] == report["before"]
    assert report["marks"] == []


def test_delay_is_by_netem_or_refused_with_what_to_do_instead() -> None:
    report = play("delayed")
    code, message = report["refused"]
    after = report["after"][0]["pe0-gpu:cnic"]
    if code == 0:  # this kernel has netem
        assert (after["delay_s"], after["delay_by"]) == (0.02, "netem")
        assert report["after"][1] == report["before"][1]
    else:
        assert code == 4
        assert "netem" in message and "in their transport" in message
        assert report["after"] == report["before"]


def test_classes_go_off_and_on_while_traffic_goes_on() -> None:
    report = play("switched_classes")
    on, off, still_off, again = (report[name] for name in ("on", "off", "still_off", "again"))
    # What waited in MODEL left, and nothing came after it.
    assert on["1:10"]["backlog_bytes"] > 0
    assert off["1:10"]["sent_bytes"] >= on["1:10"]["sent_bytes"] + on["1:10"]["backlog_bytes"]
    assert still_off["1:10"] == off["1:10"]
    assert still_off["1:20"]["sent_bytes"] > off["1:20"]["sent_bytes"]
    assert report["last"]["1:20"] == again["1:20"]
    assert report["last"]["1:10"]["sent_bytes"] > again["1:10"]["sent_bytes"]
    assert all(report["last"][name]["dropped_packets"] == 0 for name in ("1:10", "1:20"))
    sent, received = report["flow"]
    assert sent == received > 400_000
    assert report["qos"] == [False, True]


def test_backlogs_tell_which_end_of_which_link_holds_data() -> None:
    report = play("backlogged")
    assert len(report["idle"]) == LINKS
    assert all(ends == [0, 0] for ends in report["idle"].values())
    assert report["found"]["pe0-gpu:cnic"][0] > 0
    assert all(ends == [0, 0] for ends in without(report["found"], "pe0-gpu:cnic").values())


def test_a_foreign_process_runs_in_its_hosts_namespace_and_outlives_its_thread() -> None:
    report = play("foreign_process")
    assert report["namespace"] == report["host"]
    assert report["alive_after_its_thread"]
    assert report["code"] == 0

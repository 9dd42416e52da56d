"""Rates, delays, links and names as people write them."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.cli.clusters import link_id, mark_words, mbps, one_name, rate_bps, time_s
from testbed.cli.main import main
from testbed.clusters import names
from testbed.clusters.names import (
    PATTERN,
    as_name,
    claim,
    claim_free,
    find,
    holders,
    live,
    name_of,
    sockets,
)
from testbed.errors import InputError
from testbed.pytest_plugin.network import Network


@pytest.mark.parametrize(
    ("text", "bps"),
    [
        ("200Mbps", 2e8), ("1.5 Gbit/s", 1.5e9), ("10gbps", 1e10), ("64kbit", 64e3), ("5e8", 5e8),
        ("1000", 1000.0), ("1500mbit", 1.5e9), ("20MBit/s", 2e7), ("3Mb/s", 3e6),
        ("250 bps", 250.0),
    ],
)  # fmt: skip
def test_rates(text: str, bps: float) -> None:
    assert rate_bps(text) == pytest.approx(bps)


@pytest.mark.parametrize(
    "text", ["", "fast", "-5", "1.2.3Mbps", "nan", "inf", "0", "5MB/s", "0Mbps"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="200Mbps"):
        rate_bps(text)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("50MBps", "400Mbps"), ("5MB/s", "40Mbps"), ("1.5 GB/s", "12Gbps"), ("64kB", "512kbps"),
        ("100MBPS", "800Mbps"), ("10 Mbytes/s", "80Mbps"), ("9B/s", "72bps"),
    ],
)  # fmt: skip
def test_bytes_are_no_bits_and_their_refusal_says_how_many_bits_they_are(
    text: str, bits: str
) -> None:
    with pytest.raises(InputError, match=f"is in bytes.* so many bytes are {bits}$"):
        rate_bps(text)


@pytest.mark.parametrize(("text", "seconds"), [("2ms", 2e-3), ("250us", 250e-6), ("0s", 0.0)])
def test_delays(text: str, seconds: float) -> None:
    assert time_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["2", "ms", "-1ms", "1h", ""])
def test_what_is_no_delay_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="250us"):
        time_s(text)


def test_a_mark_has_its_class_and_its_number() -> None:
    marks = [mark_words(dscp) for dscp in (46, 8, 48, 10, None)]
    assert marks == ["MODEL (DSCP 46)", "KV (DSCP 8)", "CTRL (DSCP 48)", "DSCP 10", "none"]


def test_a_cluster_is_named_either_way_and_not_in_two() -> None:
    assert one_name("a", None) == one_name(None, "a") == one_name("a", "a") == "a"
    assert one_name(None, None) is None
    with pytest.raises(InputError, match="'a' and --cluster 'b' are two clusters"):
        one_name("a", "b")


def test_links() -> None:
    assert link_id("pe0-buf:snic") == ("pe0-buf", "snic")
    for text in ("pe0-buf", ":snic", "pe0-buf:", ""):
        with pytest.raises(InputError, match="HOST:NIC"):
            link_id(text)
    assert (mbps(None), mbps(142.276e6)) == ("unshaped", "142.276")


@pytest.mark.parametrize("stem", ["1p2d", "My Lab_2", "--x--", "ä", "a" * 90])
def test_any_file_name_becomes_a_valid_name(stem: str) -> None:
    assert PATTERN.fullmatch(as_name(stem))


def test_a_name_is_held_by_its_socket_and_by_one_alone() -> None:
    with claim("unit-one-name") as held:
        assert name_of(held) == "unit-one-name"
        assert "unit-one-name" in live()
        assert find("unit-one-name") == "unit-one-name"
        with pytest.raises(InputError, match="up already"):
            claim("unit-one-name")
        name, second = claim_free("unit-one-name")
        second.close()
        assert name == "unit-one-name-2"
    assert "unit-one-name" not in live()
    with pytest.raises(InputError, match="unit-one-name"):
        find("unit-one-name")


@pytest.mark.parametrize("name", ["", "UP", "a b", "a/b", "-a", "a" * 61, "ä"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="small letters"):
        claim(name)


def test_a_cluster_that_is_missed_is_sought_where_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, other = os.getuid(), os.getuid() + 1
    up: dict[int, set[str]] = {mine: {"alpha"}, other: {"beta"}}
    monkeypatch.setattr(names, "_by_user", lambda: up)
    with pytest.raises(InputError, match="nearest cluster: 'alpha'"):
        find("alpna")
    with pytest.raises(InputError, match=f"user {other} has 'beta' up: reach it as that user"):
        find("beta")
    with pytest.raises(InputError) as nowhere:  # of others' clusters that are not it, no word
        find("gamma")
    assert str(nowhere.value) == "you have no cluster 'gamma' up; cluster: 'alpha'"
    del up[mine]
    with pytest.raises(InputError, match=f"user {other} has clusters up: reach them as that"):
        find("alpha")
    up.clear()
    with pytest.raises(InputError, match="none is up"):
        find("alpha")


def test_a_class_that_is_none_is_refused_before_anything_is_marked(tmp_path: Path) -> None:
    cluster: Any = SimpleNamespace(look=lambda: SimpleNamespace(hosts=[], links=[]))
    with pytest.raises(InputError, match="'GOLD': use MODEL, KV, CTRL, or None"):
        Network(cluster, tmp_path).mark(5201, "GOLD")


@pytest.mark.parametrize("text", ["nan", "-1", "x"])
@pytest.mark.parametrize("verb", ["graph", "capture"])
def test_lengths_of_time_are_numbers(
    verb: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pe0-buf:snic"] if verb == "capture" else []
    assert main([verb, *words, "--seconds", text]) == 2
    assert "--seconds" in capsys.readouterr().err


def test_a_name_that_is_taken_anew_has_another_socket_and_another_holder() -> None:
    with claim("unit-taken-anew"):
        first = sockets("unit-taken-anew")
        held = holders(first)
    for pidfd in held:
        os.close(pidfd)
    with claim("unit-taken-anew"):
        assert len(held) == len(first) == 1
        assert not first & sockets("unit-taken-anew")
        assert holders(first) == []

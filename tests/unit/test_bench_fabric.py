"""The bench of the fabric claims what was measured, and never passes over what was not."""

from collections.abc import Callable, Iterator

import pytest

from testbed.bench import fabric, fabric_nixl
from testbed.bench.fabric_jobs import (
    Built,
    Bulk,
    BulkResult,
    Failed,
    Lab,
    LatencyResult,
    Others,
)
from testbed.bench.table import Bench

Rows = dict[str, tuple[str, bool | None]]


def rows(
    monkeypatch: pytest.MonkeyPatch,
    bulk: Callable[[Bulk], BulkResult | Failed],
    nixl: str = "",
    p99_s: float = 1e-3,
) -> Rows:
    """The table of a bench whose labs say this; with classes MODEL takes `p99_s` beside KV."""

    def results(lab: Lab) -> Iterator[fabric.Result]:
        for job in lab.jobs:
            if isinstance(job, Bulk):
                yield bulk(job)
            else:
                trip_s = 1e-3 if job.kv_senders == 0 else p99_s if lab.qos else 0.05
                trips_s = [1e-4] * 98 + [trip_s] * 2
                yield LatencyResult(trips_s, 0.98 * job.bps, networks_s=[t / 2 for t in trips_s])

    monkeypatch.setattr(fabric, "_results", results)
    monkeypatch.setattr(fabric, "_busy_cpus", lambda: 0.0)
    monkeypatch.setattr(fabric, "_build", lambda job: (Built(4.0 if job.stock else 1.0, 131), 0.1))
    monkeypatch.setattr(fabric_nixl, "python", lambda: nixl)
    bench = Bench({})
    fabric.claims(bench, lambda _: None)
    return {what: (value, holds) for what, value, _, holds in bench.rows}


def as_asked(job: Bulk) -> BulkResult:
    return BulkResult(job.bps or 2e10, 0.4, 1.0)


def test_all_holds_where_links_carry_what_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(monkeypatch, as_asked, nixl="/a/python")
    assert len(found) > 40
    assert not [what for what, (_, holds) in found.items() if holds is False]


def test_without_nixl_its_lines_say_how_to_get_it_and_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = rows(monkeypatch, as_asked)
    short = {what: value for what, (value, holds) in found.items() if holds is False}
    assert len(short) == 2 and all("NIXL" in what for what in short)
    assert set(short.values()) == {fabric_nixl.HOW}


def test_without_iperf3_every_line_with_it_fails_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    why = "iperf3 is missing; install the package iperf3"
    found = rows(
        monkeypatch,
        lambda job: Failed(why) if job.peer == "iperf3" else as_asked(job),
        nixl="/a/python",
    )
    short = {what: value for what, (value, holds) in found.items() if holds is False}
    assert set(short.values()) == {why}
    assert set(short) == {what for what in found if "iperf3" in what}


def test_a_slow_transport_is_short_beside_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(job: Bulk) -> BulkResult:
        whole = as_asked(job)
        return whole if job.peer != "ours" else BulkResult(whole.goodput_bps / 2, 0.8, 1.0)

    found = rows(monkeypatch, half, nixl="/a/python")
    for line in (
        "unshaped, 1 MiB: goodput, ours over NIXL",
        "200 Mbit/s, 64 KiB pieces: ours over iperf3",
        "2000 Mbit/s, 8 flows, ours: goodput over nominal",
    ):
        assert found[line] == ("0.500", False)
    assert found["unshaped, 1 MiB: CPU seconds a GB, ours over NIXL"] == ("2.000", False)
    assert found["2000 Mbit/s, 8 flows, iperf3: goodput over nominal"][1]


def test_isolation_is_judged_by_the_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(monkeypatch, as_asked, p99_s=2.5e-3)
    over_idle = [holds for what, (_, holds) in found.items() if what.endswith("p99 over idle")]
    without = [holds for what, (_, holds) in found.items() if "without classes" in what]
    assert over_idle == [False] * 4 and without == [False] * 4


def test_ours_and_nixl_are_compared_with_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine that becomes three times as fast half-way must not decide between them.
    asked = 0

    def drifting(job: Bulk) -> BulkResult:
        nonlocal asked
        if job.bps is not None:
            return as_asked(job)
        asked += 1
        speed = (1 if asked < 9 else 3) * (1.1 if job.peer == "ours" else 1.0)
        return BulkResult(speed * 1e10, 1 / speed, 1.0)

    found = rows(monkeypatch, drifting, nixl="/a/python")
    assert found["unshaped, 1 MiB: goodput, ours over NIXL"] == ("1.100", True)
    assert found["unshaped, 1 MiB: CPU seconds a GB, ours over NIXL"] == ("0.909", True)


def test_the_table_says_what_others_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    def disturbed(job: Bulk) -> BulkResult:
        return BulkResult(job.bps or 2e10, 0.4, 1.0, Others(foreign_cpus=1.0), repeats=3)

    found = rows(monkeypatch, disturbed)
    shares = {what: float(value) for what, (value, _) in found.items() if "measurements" in what}
    assert len(shares) == 2 and all(0.5 < share < 1 for share in shares.values())
    found = rows(monkeypatch, as_asked)
    assert [value for what, (value, _) in found.items() if "measurements" in what] == ["0.000"] * 2

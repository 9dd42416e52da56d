"""Agreement of two results, worked by hand."""

from typing import Any

from testbed.results import parity


def result(basic: float, dualpath: float, count: int) -> dict[str, Any]:
    def policy(rate: float) -> dict[str, Any]:
        return {
            "throughput_turns_per_s": rate,
            "completed_turns": 10,
            "bytes": {
                "pe0-buf:snic:rx": count, "pe1-buf:snic:rx": 10_000, "pe0:uplink:tx": 100,
                "pe0-buf:mgmt:tx": count * 2,
            },
        }  # fmt: skip

    policies = {"basic": policy(basic), "dualpath": policy(dualpath)}
    return {"policies": policies, "speedup": {"basic": 1.0, "dualpath": dualpath / basic}}


def test_rates_and_speedups_side_by_side() -> None:
    found = list(parity.rates(result(10, 20, 0), result(10.4, 22, 0)))
    assert [one.what for one in found] == [
        "basic, turns/s", "dualpath, turns/s", "dualpath, speed-up",
    ]  # fmt: skip
    assert [one.holds for one in found] == [True, False, False]
    assert found[1].ratio == 1.1


def test_ports_of_one_kind_are_added_and_small_ones_left_out() -> None:
    found = list(parity.ports(result(1, 1, 20_000), result(1, 1, 20_800)))
    assert {one.what for one in found} == {"basic, pe-buf:snic:rx", "dualpath, pe-buf:snic:rx"}
    assert (found[0].emulated, found[0].virtual, found[0].holds) == (3000, 3080, True)
    assert not any(one.holds for one in parity.ports(result(1, 1, 20_000), result(1, 1, 22_000)))


def test_order_of_policies() -> None:
    assert parity.same_order(result(1, 2, 0), result(3, 4, 0))
    assert not parity.same_order(result(1, 2, 0), result(4, 3, 0))


def test_policies_that_neither_world_tells_apart_stand_in_any_order() -> None:
    assert parity.same_order(result(100, 101, 0), result(101, 100, 0))
    assert not parity.same_order(result(100, 101, 0), result(103, 100, 0))
    assert not parity.same_order(result(100, 103, 0), result(101, 100, 0))

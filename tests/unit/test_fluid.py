"""Fluid links: closed forms to the nanosecond, max-min fairness, and no byte lost."""

import asyncio
from itertools import pairwise

import pytest
from fakes import running_loop
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.modelled.fluid import KV, MODEL, FluidNetwork, Link
from engines.modelled.loop import run_virtual, virtual_loop

NS = 1e-9
Start = tuple[float, tuple[str, ...], float, bool]  # time, path, bytes, whether MODEL


def finishes(capacities: dict[str, float], starts: list[Start], qos: bool = True) -> list[float]:
    """When each transfer is through, each on a channel of its own."""
    ends = [0.0] * len(starts)

    async def main() -> None:
        loop = running_loop()
        network = FluidNetwork(loop, capacities, qos)
        left = len(starts)
        over = asyncio.Event()

        def begin(number: int) -> None:
            _, path, size, model = starts[number]
            network.send(network.channel(model, path), size, lambda: end(number))

        def end(number: int) -> None:
            nonlocal left
            ends[number] = loop.time()
            left -= 1
            if not left:
                over.set()

        for number, (at_s, *_) in enumerate(starts):
            loop.call_at(at_s, begin, number)
        await over.wait()

    run_virtual(main)
    return ends


def test_one_transfer_takes_its_size_over_the_slowest_link() -> None:
    (end_s,) = finishes({"a": 100.0, "b": 30.0}, [(2.0, ("a", "b"), 60.0, False)])
    assert end_s == pytest.approx(4.0, abs=NS)


def test_two_share_a_link_and_the_longer_one_has_it_alone_afterwards() -> None:
    ends = finishes({"a": 10.0}, [(0.0, ("a",), 50.0, False), (1.0, ("a",), 20.0, False)])
    # 10 bytes alone, then 5 a second each: the second is through after 4 s, the first has 20 left.
    assert ends == pytest.approx([7.0, 5.0], abs=NS)


def test_a_burst_of_model_leaves_one_percent_to_kv() -> None:
    ends = finishes({"a": 100.0}, [(0.0, ("a",), 200.0, False), (1.0, ("a",), 99.0, True)])
    # One second alone (100), one at 1 %, and 99 left at full rate.
    assert ends == pytest.approx([2.99, 2.0], abs=NS)


def test_without_classes_a_burst_shares_as_all_do() -> None:
    starts = [(0.0, ("a",), 200.0, False), (1.0, ("a",), 99.0, True)]
    ends = finishes({"a": 100.0}, starts, qos=False)
    assert ends == pytest.approx([2.99, 2.98], abs=NS)


def test_model_has_the_whole_link_where_no_kv_is() -> None:
    (end_s,) = finishes({"a": 100.0}, [(0.0, ("a",), 100.0, True)])
    assert end_s == pytest.approx(1.0, abs=NS)


def test_what_one_link_holds_back_another_gives_away() -> None:
    paths = [("a", "slow"), ("a",), ("a",)]
    starts: list[Start] = [(0.0, path, 90.0, False) for path in paths]
    ends = finishes({"a": 30.0, "slow": 2.0}, starts)
    # 2, 14 and 14 bytes/s; then the slow one goes on alone.
    assert ends == pytest.approx([45.0, 90 / 14, 90 / 14], abs=NS)


def test_transfers_of_one_channel_come_one_after_the_other() -> None:
    ends: list[tuple[str, float]] = []

    async def main() -> None:
        loop = running_loop()
        network = FluidNetwork(loop, {"a": 10.0}, True)
        over = asyncio.Event()
        channel, other = network.channel(False, ("a",)), network.channel(False, ("a",))

        def note(name: str) -> None:
            ends.append((name, loop.time()))
            if len(ends) == 4:
                over.set()

        for size in (10.0, 0.0, 20.0):
            network.send(channel, size, lambda size=size: note(f"{size:g}"))  # type: ignore[misc]
        network.send(other, 15.0, lambda: note("other"))
        await over.wait()

    run_virtual(main)
    assert ends == [("10", 2.0), ("0", 2.0), ("other", 3.0), ("20", 4.5)]


def max_min(capacities: dict[str, float], paths: list[tuple[str, ...]]) -> list[float]:
    """The slow reference: raise all rates together, freeze who meets a full link, go on."""
    rates: dict[int, float] = {}
    left = dict(capacities)
    while len(rates) < len(paths):
        open_ = [number for number in range(len(paths)) if number not in rates]
        counts = {name: sum(name in paths[number] for number in open_) for name in left}
        fair = {name: left[name] / count for name, count in counts.items() if count}
        tight = min(fair, key=fair.__getitem__)
        for number in open_:
            if tight in paths[number]:
                rates[number] = fair[tight]
                for name in paths[number]:
                    left[name] -= fair[tight]
    return [rates[number] for number in range(len(paths))]


NAMES = ["a", "b", "c", "d", "e"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(1.0, 1000.0), min_size=5, max_size=5),
    st.lists(st.tuples(PATHS, st.floats(1.0, 100.0), st.floats(0.0, 2.0)), min_size=1, max_size=12),
)
def test_rates_are_max_min_fair_and_bytes_are_conserved_at_every_instant(
    rates: list[float], flows: list[tuple[tuple[str, ...], float, float]]
) -> None:
    capacities = dict(zip(NAMES, rates, strict=True))

    async def main() -> None:
        loop = running_loop()
        network = FluidNetwork(loop, capacities, True)
        busy: dict[int, object] = {}
        done = 0.0
        over = asyncio.Event()
        channels = [network.channel(False, path) for path, _, _ in flows]

        def begin(number: int) -> None:
            busy[number] = None
            network.send(channels[number], flows[number][1], lambda: end(number))
            loop.call_soon(loop.call_soon, look)

        def end(number: int) -> None:
            nonlocal done
            del busy[number]
            done += flows[number][1]
            loop.call_soon(loop.call_soon, look)
            if done >= sum(size for _, size, _ in flows) - 1e-9:
                over.set()

        def look() -> None:
            """After the network has settled: rates as the reference says, bytes all there."""
            numbers = sorted(busy)
            wanted = max_min(capacities, [flows[number][0] for number in numbers])
            assert [channels[n].rate for n in numbers] == pytest.approx(wanted, rel=1e-6)
            now_s = loop.time()
            moved = done + sum(channels[number].moved_bytes(now_s) for number in numbers)
            for name, link in network.links.items():
                gone = [n for n in range(len(flows)) if n not in busy and flows[n][2] <= now_s]
                over_it = sum(flows[n][1] for n in gone if name in flows[n][0])
                under_way = [channels[n] for n in numbers if name in flows[n][0]]
                over_it += sum(channel.moved_bytes(now_s) for channel in under_way)
                assert link.carried_bytes(KV, now_s) == pytest.approx(over_it, abs=1e-6)
            assert moved <= sum(size for _, size, _ in flows) + 1e-6

        for number, (_, _, at_s) in enumerate(flows):
            loop.call_at(at_s, begin, number)
        await over.wait()

    run_virtual(main)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(PATHS, st.floats(1.0, 100.0), st.floats(0.0, 2.0), st.booleans()),
        min_size=2, max_size=10,
    )
)  # fmt: skip
def test_no_link_carries_more_than_it_can_and_everything_arrives(
    flows: list[tuple[tuple[str, ...], float, float, bool]],
) -> None:
    capacities = dict.fromkeys(NAMES, 20.0)
    ends = finishes(capacities, [(at, path, size, model) for path, size, at, model in flows])
    for (path, size, at_s, _), end_s in zip(flows, ends, strict=True):
        assert end_s >= at_s + size / 20.0 - NS, path
    for name in NAMES:
        over_it = [n for n, (path, *_) in enumerate(flows) if name in path]
        if over_it:
            begin = min(flows[n][2] for n in over_it)
            length_s = max(ends[n] for n in over_it) - begin
            carried = sum(flows[n][1] for n in over_it)
            assert carried <= 20.0 * length_s * 1.02 + 1e-6  # KV's floor beside a full MODEL


def test_a_link_shares_by_hand() -> None:
    link = Link("a", 12.0)
    assert link.share(KV) == float("inf")
    network = FluidNetwork(virtual_loop(), {"a": 12.0, "b": 2.0}, True)
    for path in (("a", "b"), ("a",)):
        channel = network.channel(False, path)
        for one in channel.links:
            one.active[KV][channel] = None
    network.links["b"].shares[KV] = 2.0
    assert network.links["a"].share(KV) == 10.0
    assert network.links["a"].room(MODEL) == pytest.approx(12.0 * 0.99)


def test_time_only_goes_forward() -> None:
    starts: list[Start] = [(0.1 * n, ("a", "b"), 3.0, n % 3 == 0) for n in range(20)]
    ends = sorted(finishes({"a": 7.0, "b": 5.0}, starts))
    assert all(one <= other for one, other in pairwise(ends))
    assert ends[-1] == pytest.approx(12.0, abs=NS)  # 60 bytes over the slower link, never idle


def test_a_wide_link_is_left_out_until_what_comes_over_it_could_fill_it() -> None:
    capacities = {"wide": 100.0, "a": 40.0, "b": 40.0, "c": 40.0}
    network = FluidNetwork(virtual_loop(), capacities, True)
    seen = []
    for name in "abac":
        network.channel(False, ("wide", name))
        seen.append(network.links["wide"].never_binds)
    assert seen == [True, True, True, False]
    starts: list[Start] = [(float(n), ("wide", name), 400.0, False) for n, name in enumerate("abc")]
    # Two pass at 40 each; from 2 s on, three share 100: 320, 360 and 400 are left of theirs.
    assert finishes(capacities, starts) == pytest.approx(
        [2 + 320 / (100 / 3), *_two_left(320 / (100 / 3))], abs=NS
    )


def _two_left(gone_s: float) -> list[float]:
    """When the second and third are through, at 40 each once the first is gone."""
    left = [360 - gone_s * 100 / 3, 400 - gone_s * 100 / 3]
    return [2 + gone_s + some / 40 for some in left]

"""What the lab and its supervisor look at: other programs, full queues, CPU times, a sleeper."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from testbed.fabric.counters import LinkClasses, LinkCounters
from testbed.fabric.shaping import ClassCounters
from testbed.worlds.backlogs import MOST_LOOKS, Queue, chain
from testbed.worlds.looks import Looks
from testbed.worlds.others import MOST_NAMED, Program, Seen, busiest, processes
from testbed.worlds.samples import PortBytes, core_times_s, cores, own_times_s
from testbed.worlds.sleeper import IN_A_ROW, Sleeper, row

RATE = 1e6  # bytes/s of the link


def seen(
    cpu_s: float,
    parent: int = 1,
    start: int = 5,
    name: str = "x",
    itself_s: float | None = None,
) -> Seen:
    return Seen(parent, start, name, cpu_s, cpu_s if itself_s is None else itself_s)


def test_the_busiest_programs_are_those_that_used_most_between_two_looks() -> None:
    before = {1: seen(9.0, 0), 7: seen(100.0), 8: seen(1.0), 9: seen(3.0)}
    after = {1: seen(9.0, 0), 7: seen(100.05), 8: seen(5.0), 9: seen(4.0), 10: seen(2.0)}
    assert busiest(before, after, set()) == [
        Program(8, "x", 4.0), Program(10, "x", 2.0), Program(9, "x", 1.0),
    ]  # fmt: skip


def test_our_own_tree_is_no_other_program_and_neither_is_a_number_that_was_used_again() -> None:
    after = {20: seen(5.0, 1), 21: seen(5.0, 20), 22: seen(5.0, 21), 30: seen(5.0, 1, start=99)}
    assert busiest({30: seen(4.0)}, after, {20}) == [Program(30, "x", 5.0)]


def test_what_an_ended_child_had_used_before_the_run_is_not_its_parents_use_of_it() -> None:
    before = {5: seen(1.0), 6: seen(0.5, 5), 7: seen(30.0, 6)}
    after = {5: seen(35.5)}  # both ended; they and their parent used four more between the looks
    assert busiest(before, after, set()) == [Program(5, "x", 4.0)]


def test_neither_the_first_process_nor_one_that_only_waited_for_its_children_is_named() -> None:
    before = {1: seen(10.0, 0), 5: seen(50.0, name="bash", itself_s=3.0), 6: seen(1.0, 5)}
    after = {
        1: seen(30.0, 0),
        5: seen(70.0, name="bash", itself_s=3.05),
        6: seen(9.0, 5),
        7: seen(20.0, 5, name="make", itself_s=0.4),  # it works, and its children are its doing
    }
    assert busiest(before, after, set()) == [Program(7, "make", 20.0), Program(6, "x", 8.0)]


def test_only_a_few_are_named_and_a_circle_of_parents_ends() -> None:
    after = {number: seen(float(number), parent=number) for number in range(1, 10)}
    found = busiest({}, after, set())
    assert [one.pid for one in found] == [9, 8, 7, 6, 5, 4, 3, 2] and len(found) == MOST_NAMED


def test_processes_are_read_with_their_name_whatever_it_holds(tmp_path: Path) -> None:
    (tmp_path / "12").mkdir()
    fields = ["S", "4", *["0"] * 9, "300", "100", "7", "3", *["0"] * 4, "888", "0"]
    (tmp_path / "12" / "stat").write_text(f"12 (a (b) c) {' '.join(fields)}\n")
    (tmp_path / "13").mkdir()  # ended meanwhile
    (tmp_path / "self").mkdir()
    per_s = os.sysconf("SC_CLK_TCK")
    assert processes(tmp_path) == {12: Seen(4, 888, "a (b) c", 410 / per_s, 400 / per_s)}


def test_this_process_is_among_those_of_the_machine() -> None:
    assert processes()[os.getpid()].parent == os.getppid()


def test_own_times_name_hosts_by_their_process() -> None:
    name = Path("/proc/self/comm").read_text().strip()
    own_s, delays_s = own_times_s({name, "no-such-host"})
    assert own_s > 0 and list(delays_s) == [name]


def test_core_times_are_those_of_the_cores_that_we_may_use() -> None:
    every = os.sched_getaffinity(0)
    busy_s, stolen_s = core_times_s()
    assert busy_s >= stolen_s >= 0 and cores() == len(every)
    os.sched_setaffinity(0, {min(every)})
    try:
        assert cores() == 1
        assert len(every) == 1 or core_times_s()[0] < 0.99 * busy_s
    finally:
        os.sched_setaffinity(0, every)


class Link:
    """A link whose queue and sent bytes follow a script, one step of it a look."""

    def __init__(self, waiting: list[int], gap_s: float = 0.003) -> None:
        self._waiting = waiting
        self._gap_s = gap_s
        self._at_s = 10.0
        self.looks = 0

    def look(self) -> Mapping[str, Queue]:
        waits = self._waiting[min(self.looks, len(self._waiting) - 1)]
        self.looks += 1
        return {"a:snic<": (self.looks * 3000, waits), "b:snic<": (0, 0)}

    def now_s(self) -> float:
        return self._at_s

    def sleep(self, _: float) -> None:
        self._at_s += self._gap_s


def chained(link: Link) -> list[tuple[float, int, float]]:
    nominal = {"a:snic<": RATE, "b:snic<": RATE}
    found = chain(link.look, nominal, link.now_s, link.sleep)
    assert all(one.link == "a:snic<" and one.at_monotonic_s == 10.0 for one in found)
    return [(round(one.length_s, 6), one.wire_bytes, round(one.nominal_bytes)) for one in found]


def test_a_queue_that_holds_enough_at_each_look_was_never_empty() -> None:
    link = Link([9000])
    assert chained(link) == [(0.024, 24_000, 24_000)]
    assert link.looks == MOST_LOOKS


def test_a_chain_ends_where_the_queue_might_have_run_empty() -> None:
    # The third look's 2000 bytes last for 2 of the 3 ms to the fourth.
    link = Link([9000, 9000, 2000, 9000])
    assert chained(link) == [(0.006, 6000, 6000)]
    assert link.looks == 4


@pytest.mark.parametrize("waiting", [[0], [2999]])
def test_without_a_full_queue_one_look_is_enough(waiting: list[int]) -> None:
    link = Link(waiting)
    assert chained(link) == [] and link.looks == 1


def test_looks_that_come_late_prove_nothing() -> None:
    assert chained(Link([9000], gap_s=0.010)) == []


def test_a_row_of_sleeps_says_how_late_each_ended() -> None:
    found = row(count=5)
    assert len(found.overshoots_us) == 5 and min(found.overshoots_us) >= 0


class Net:
    """A network of one link that is shaped to the rate above, with packets dropped on it."""

    def __init__(self) -> None:
        self.moved = 0

    def counters(self) -> dict[tuple[str, str], LinkCounters]:
        self.moved += 1000
        return {("a", "snic"): LinkCounters(self.moved, 0, 2 * self.moved, 0)}

    def payload_rates(self) -> dict[tuple[str, str], float | None]:
        return {("a", "snic"): RATE * 8}

    def class_counters(self) -> dict[tuple[str, str], LinkClasses]:
        kv = ClassCounters(self.moved + 66, 1, 3, 0)
        return {("a", "snic"): LinkClasses({"1:20": kv}, {"1:20": kv})}


@pytest.mark.parametrize("judge", [True, False])
def test_looks_hold_ports_always_and_the_machine_where_it_can_be_judged(judge: bool) -> None:
    name = Path("/proc/self/comm").read_text().strip()
    net: Any = Net()
    looks = Looks(judge)
    looks.begin()
    for _ in range(3):
        looks.take(net, frozenset({name}), 0.0)
    found = looks.end(net, 5.0, 0.25, "none")
    assert [one.ports for one in found.samples] == [
        (PortBytes("a", "snic", moved, 2 * moved),) for moved in (1000, 2000, 3000)
    ]
    assert found.class_bytes == {"a:snic>": {"1:20": 3000}, "a:snic<": {"1:20": 3000}}
    assert found.dropped == {"a:snic>": {"1:20": 3}, "a:snic<": {"1:20": 3}}
    assert (found.start_monotonic_s, found.network_up_s) == (5.0, 0.25)
    assert (found.cores, bool(found.sleeps)) == ((cores(), True) if judge else (0, False))
    assert all(bool(one.delays_s) is judge and bool(one.busy_s) is judge for one in found.samples)


@pytest.mark.parametrize(("begin", "rows"), [(True, True), (False, False)])
def test_a_sleeper_sleeps_from_its_begin_and_is_gone_at_its_end(begin: bool, rows: bool) -> None:
    sleeper = Sleeper()
    if begin:
        sleeper.begin()
    found = sleeper.end()
    assert bool(found) is rows
    assert all(len(one.overshoots_us) == IN_A_ROW for one in found)
    with pytest.raises(ChildProcessError):
        os.waitpid(sleeper._pid, os.WNOHANG)

"""What waits for its due time: never too early, in order, and let go at the end."""

import sys
from collections.abc import Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.real.clock import RealClock
from engines.real.held import Alarm, Held, KernelAlarm, Line, LoopAlarm

SCALE = 2.0


class Stand(RealClock):
    """A clock that stands where it is set, and the one alarm on it."""

    def __init__(self) -> None:
        super().__init__(100.0, SCALE)
        self.at_s = 0.0
        self.alarm_s: float | None = None

    def now_s(self) -> float:
        return self.at_s

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        self.ring = ring
        return self

    def set(self, monotonic_s: float) -> None:
        self.alarm_s = (monotonic_s - 100.0) / SCALE

    def close(self) -> None:
        self.alarm_s = None

    def run_to(self, when_s: float, late_s: float = 0.0) -> None:
        """Let time pass; the alarm rings when it is due, or so much later."""
        while self.alarm_s is not None and self.alarm_s + late_s <= when_s:
            self.at_s, self.alarm_s = max(self.at_s, self.alarm_s + late_s), None
            self.ring()
        self.at_s = max(self.at_s, when_s)


Steps = list[tuple[float, int]]
# Multiples of a power of two, so that times add up exactly.
steps = st.lists(
    st.tuples(st.integers(0, 64).map(lambda n: n / 32), st.integers(0, 2)), max_size=60
)


@given(steps, st.integers(0, 8).map(lambda n: n / 32))
def test_everything_is_let_go_once_in_order_and_never_early(steps: Steps, late_s: float) -> None:
    clock = Stand()
    held = Held(clock, clock.alarm)
    delays_s = (0.0, 0.5, 1.25)
    lines = [Line(held, delay_s) for delay_s in delays_s]
    wanted: list[tuple[float, int, int]] = []
    found: list[tuple[float, int, int]] = []
    for number, (pause_s, line) in enumerate(steps):
        clock.run_to(clock.at_s + pause_s, late_s)
        due_s = clock.at_s + delays_s[line]
        wanted.append((due_s, number, line))

        def release(at_s: float, what: tuple[float, int, int] = wanted[-1]) -> None:
            assert at_s == what[0] <= clock.at_s
            found.append(what)

        lines[line].hold(release)
    clock.run_to(clock.at_s + 10, late_s)
    assert sorted(found) == sorted(wanted)
    for line in range(3):
        mine = [what for what in found if what[2] == line]
        assert mine == sorted(mine)
    assert held.count == len(steps)
    assert held.late_s <= len(steps) * late_s


def test_a_due_time_does_not_depend_on_when_others_were_let_go() -> None:
    clock = Stand()
    held = Held(clock, clock.alarm)
    found: list[float] = []
    for at_s in (0.0, 0.25, 0.5):
        clock.at_s = at_s
        held.hold(1.0, found.append)
    clock.run_to(20.0, late_s=5.0)  # a host that was busy for long
    assert found == [1.0, 1.25, 1.5]
    assert held.late_s == pytest.approx(5.0 + 4.75 + 4.5)


def test_at_the_end_all_that_is_held_is_let_go_and_nothing_is_held_any_more() -> None:
    clock = Stand()
    held = Held(clock, clock.alarm)
    found: list[float] = []

    def chain(due_s: float) -> None:
        found.append(due_s)
        held.hold(7.0, found.append)

    held.hold(3.0, chain)
    held.hold(2.0, found.append)
    held.close()
    assert found == [2.0, 3.0, 7.0]
    assert clock.alarm_s is None


@pytest.mark.parametrize("kind", [KernelAlarm, LoopAlarm])
@pytest.mark.parametrize("uvloop", [True, False])
def test_an_alarm_rings_once_and_not_before_its_last_setting(
    kind: type[KernelAlarm] | type[LoopAlarm], uvloop: bool
) -> None:
    if kind is KernelAlarm and sys.platform != "linux":
        pytest.skip("timerfd is Linux's")
    clock = RealClock(0.0, 1.0)  # target time is the machine's
    rung: list[float] = []

    async def main() -> None:
        alarm = kind(lambda: rung.append(clock.now_s()))
        begin_s = clock.now_s()
        with anyio.fail_after(10):
            for at_s in (begin_s + 5, begin_s + 0.01, begin_s + 0.06):
                alarm.set(at_s)
            while not rung:
                await anyio.sleep(0.002)
            # A loop may be up to a millisecond early: Held looks at the clock, and sets it again.
            assert len(rung) == 1 and rung[0] >= begin_s + 0.06 - 0.001
            alarm.set(begin_s)
            while len(rung) == 1:
                await anyio.sleep(0.002)
            alarm.set(clock.now_s() + 0.01)
            alarm.close()
            await anyio.sleep(0.03)
        assert len(rung) == 2

    anyio.run(main, backend_options={"use_uvloop": uvloop})

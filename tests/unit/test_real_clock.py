"""The real clock: scaled, never early, and its deadlines are told from other timeouts."""

import time

import anyio
import pytest

from engines.errors import DeadlineExceeded
from engines.real.clock import RealClock


def test_a_target_second_lasts_time_scale_real_seconds() -> None:
    start_s = time.monotonic() - 10.0
    assert RealClock(start_s, 4.0).now_s() == pytest.approx(2.5, abs=0.1)
    assert RealClock(start_s, 0.5).now_s() == pytest.approx(20.0, abs=0.5)


@pytest.mark.parametrize("uvloop", [True, False])
def test_a_sleep_never_ends_early(uvloop: bool) -> None:
    async def main() -> None:
        clock = RealClock(time.monotonic(), 2.0)
        for step in range(1, 40):
            await clock.sleep_until_s(step * 0.0007)
            assert clock.now_s() >= step * 0.0007

    anyio.run(main, backend_options={"use_uvloop": uvloop})


def test_a_sleep_into_the_past_gives_others_a_turn() -> None:
    async def main() -> None:
        clock = RealClock(time.monotonic() - 100, 1.0)
        turns = []

        async def other() -> None:
            turns.append("other")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            await clock.sleep_until_s(1.0)
            assert turns == ["other"]

    anyio.run(main)


def test_a_deadline_is_in_target_seconds_and_names_what_was_awaited() -> None:
    async def main() -> None:
        clock = RealClock(time.monotonic(), 0.01)
        late = pytest.raises(DeadlineExceeded, match="the moon's write took longer than 5 s")
        with late, clock.deadline(5, "the moon's write"):
            await anyio.sleep(30)
        assert 5 <= clock.now_s() < 500
        with clock.deadline(1000, "nothing"):
            await anyio.lowlevel.checkpoint()

    anyio.run(main)


def test_a_timeout_of_the_block_itself_is_not_the_deadlines() -> None:
    clock = RealClock(time.monotonic(), 1.0)

    async def main() -> None:
        with pytest.raises(TimeoutError), clock.deadline(10, "connect"):
            raise TimeoutError("ETIMEDOUT")

    anyio.run(main)


def test_a_cancellation_from_outside_is_not_the_deadlines() -> None:
    async def main() -> None:
        clock = RealClock(time.monotonic(), 1.0)
        with anyio.move_on_after(0.01) as scope, clock.deadline(10, "inner"):
            await anyio.sleep(30)
        assert scope.cancelled_caught

    anyio.run(main)

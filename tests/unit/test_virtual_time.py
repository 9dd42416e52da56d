"""Virtual time: it jumps, it is exact, and a hang is an error at once."""

import asyncio

import anyio
import pytest
from fakes import running_loop

from engines.errors import VirtualDeadlock
from engines.modelled.clock import VirtualClock
from engines.modelled.loop import VirtualLoop, run_virtual


def test_days_pass_at_once_and_to_the_nanosecond() -> None:
    async def main() -> list[float]:
        clock = VirtualClock(running_loop())
        seen = []
        for when_s in (0.1, 0.30000000000000004, 86_400.0 * 30, 86_400.0 * 30 + 1e-9):
            await clock.sleep_until_s(when_s)
            seen.append(clock.now_s() - when_s)
        return seen

    assert run_virtual(main) == pytest.approx([0, 0, 0, 0], abs=1e-9)


def test_a_sleep_that_is_over_gives_others_a_turn() -> None:
    turns: list[str] = []

    async def main() -> None:
        clock = VirtualClock(running_loop())

        async def other() -> None:
            turns.append("other")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            await clock.sleep_until_s(-1.0)
            turns.append("main")

    run_virtual(main)
    assert turns == ["other", "main"]


def test_nothing_left_to_happen_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(VirtualDeadlock, match="no timer is left"):
        run_virtual(main)


def test_an_error_in_a_callback_ends_the_world() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, lambda: [][0])
        await anyio.sleep(100)

    with pytest.raises(IndexError):
        run_virtual(main)


def test_an_interrupt_as_time_is_about_to_jump_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Python handles signals where functions are entered, so this is where many of them come.
    jump = VirtualLoop._jump

    def interrupted(loop: VirtualLoop) -> None:
        loop.interrupt()
        jump(loop)

    monkeypatch.setattr(VirtualLoop, "_jump", interrupted)

    async def main() -> None:
        await anyio.sleep(1.0)

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main)

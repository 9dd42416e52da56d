"""Values that come before or after whoever waits, and memories in line."""

import anyio
import pytest
from fakes import FakeClock, play

from engines.errors import CapacityError, DeadlineExceeded, EngineError
from engines.kv import Slots, Span
from engines.waits import Arena, Awaited, Bandwidth


def test_a_value_may_come_before_it_is_awaited() -> None:
    async def test() -> None:
        awaited: Awaited[int] = Awaited("a number")
        assert not awaited.is_set
        awaited.set(7)
        assert awaited.is_set
        assert await awaited.wait(FakeClock(), 1.0) == 7
        assert await awaited.wait(FakeClock(), 1.0) == 7

    play(test)


def test_a_value_may_come_after_it_is_awaited() -> None:
    found: list[tuple[int, float]] = []

    async def test() -> None:
        awaited: Awaited[int] = Awaited("a number")

        async def wait() -> None:
            found.append((await awaited.wait(FakeClock(), 10.0), anyio.current_time()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(wait)
            await anyio.sleep(3)
            awaited.set(7)

    play(test)
    assert [value for value, _ in found] == [7, 7]
    assert all(at_s == pytest.approx(3) for _, at_s in found)


def test_a_value_that_does_not_come_is_named() -> None:
    async def test() -> None:
        awaited: Awaited[int] = Awaited("the last layer of turn 3")
        with pytest.raises(DeadlineExceeded, match="the last layer of turn 3"):
            await awaited.wait(FakeClock(), 5.0)
        assert anyio.current_time() == pytest.approx(5)

    play(test)


def test_a_second_value_is_a_protocol_error() -> None:
    async def test() -> None:
        awaited: Awaited[int] = Awaited("a number")
        awaited.set(1)
        with pytest.raises(EngineError, match="a number arrived twice"):
            awaited.set(1)

    play(test)


def test_an_arena_serves_in_order_of_asking() -> None:
    """A small request does not slip past a large one that came first."""
    order: list[str] = []

    async def test() -> None:
        arena = Arena(Slots(64, 8))
        first, second = await arena.take(32), await arena.take(16)

        async def ask(name: str, tokens: int) -> None:
            await arena.take(tokens)
            order.append(name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "large", 48)
            await anyio.sleep(1)
            tasks.start_soon(ask, "small", 8)
            tasks.start_soon(ask, "smaller", 8)
            await anyio.sleep(1)
            assert order == []  # 16 tokens are free all the while
            arena.give(second)
            await anyio.sleep(1)
            assert order == []
            arena.give(first)
        assert arena.free_tokens == 0

    play(test)
    assert order == ["large", "small", "smaller"]


def test_whoever_gives_up_waiting_holds_nothing_and_blocks_nobody() -> None:
    async def test() -> None:
        arena = Arena(Slots(64, 8))
        slot = await arena.take(64)
        with anyio.move_on_after(1):
            await arena.take(64)
        arena.give(slot)
        assert arena.free_tokens == 64
        assert await arena.take(64) == 0

    play(test)


def test_an_arena_refuses_what_can_never_fit_and_serves_the_next() -> None:
    async def test() -> None:
        arena = Arena(Slots(64, 8))
        with pytest.raises(CapacityError):
            await arena.take(65)
        assert await arena.take(8) == 0

    play(test)


def test_a_memory_is_booked_in_order_and_idles_for_nobody() -> None:
    def span(tokens: int) -> Span:
        return Span("dram", 0, 0, tokens, 0, 2)

    async def main() -> None:
        clock = FakeClock()
        memory = Bandwidth(clock, 10.0)
        await memory.turn(span(10))  # takes two seconds, and begins at once
        assert clock.now_s() == 0.0
        assert memory.book(span(5)) == 2.0
        await memory.turn(span(1))
        assert clock.now_s() == 3.0
        await clock.sleep_until_s(9.0)
        await memory.turn(span(1))
        assert clock.now_s() == 9.0
        assert memory.booked_s == pytest.approx(3.4)

    play(main)

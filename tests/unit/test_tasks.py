"""Crews, events and lives: who ends with whom, who is woken, and what is seen through."""

import asyncio

import pytest
from fakes import play

from engines.tasks import Crew, Event, Life


async def for_ever(log: list[str], name: str) -> None:
    try:
        await Event().wait()
    finally:
        log.append(name)


def test_a_dismissed_crew_ends_in_the_order_of_its_start() -> None:
    log: list[str] = []

    async def test() -> None:
        async with Crew() as crew:
            for name in ("a", "b", "c"):
                crew.start(for_ever(log, name))
            await asyncio.sleep(1)
            crew.dismiss()

    play(test)
    assert log == ["a", "b", "c"]


def test_a_member_may_dismiss_the_crew_that_waits_for_it() -> None:
    log: list[str] = []

    async def test() -> None:
        async def leave() -> None:
            await asyncio.sleep(1)
            crew.dismiss()

        async with Crew() as crew:
            crew.start(for_ever(log, "a"))
            crew.start(leave())

    play(test)
    assert log == ["a"]


def test_the_first_error_ends_all_and_leaves_as_a_group() -> None:
    log: list[str] = []

    async def test() -> None:
        async def fail() -> None:
            raise ValueError("mine")

        with pytest.raises(ExceptionGroup) as caught:
            async with Crew() as crew:
                crew.start(for_ever(log, "a"))
                crew.start(fail())
        assert caught.group_contains(ValueError, match="mine")

    play(test)
    assert log == ["a"]


def test_an_error_breaks_off_a_leader_who_waits_for_something_else() -> None:
    async def test() -> None:
        async def fail() -> None:
            await asyncio.sleep(1)
            raise ValueError("mine")

        with pytest.raises(ExceptionGroup) as caught:
            async with Crew() as crew:
                crew.start(fail())
                await Event().wait()
        assert caught.group_contains(ValueError, match="mine")
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0
        await asyncio.sleep(1)  # and it can go on

    play(test)


def test_the_leaders_own_error_dismisses_the_crew() -> None:
    log: list[str] = []

    async def test() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with Crew() as crew:
                crew.start(for_ever(log, "a"))
                await asyncio.sleep(1)
                raise KeyError("leader")
        assert caught.group_contains(KeyError)

    play(test)
    assert log == ["a"]


def test_who_is_dismissed_before_it_began_leaves_no_word() -> None:
    async def test() -> None:
        async with Crew() as crew:
            crew.start(for_ever([], "never"))
            crew.dismiss()

    play(test)


def test_a_crew_that_is_cancelled_takes_its_members_along() -> None:
    log: list[str] = []

    async def test() -> None:
        async def whole() -> None:
            async with Crew() as crew:
                crew.start(for_ever(log, "a"))

        task = asyncio.get_running_loop().create_task(whole())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    play(test)
    assert log == ["a"]


def test_a_crew_forgets_who_has_ended() -> None:
    async def test() -> None:
        async with Crew() as crew:
            for _ in range(1000):
                crew.start(asyncio.sleep(0))
                await asyncio.sleep(0.001)
            assert len(crew._members) < 100

    play(test)


def test_an_event_wakes_all_who_wait_and_lets_later_ones_pass_until_it_is_cleared() -> None:
    log: list[str] = []

    async def test() -> None:
        event = Event()

        async def wait(name: str) -> None:
            await event.wait()
            log.append(name)

        async with Crew() as crew:
            crew.start(wait("a"))
            gone = asyncio.get_running_loop().create_task(wait("gone"))
            crew.start(wait("b"))
            await asyncio.sleep(1)
            gone.cancel()
            event.set()
            await event.wait()
            event.clear()
            crew.start(wait("late"))
            await asyncio.sleep(1)
            assert log == ["a", "b"]
            event.set()

    play(test)
    assert log == ["a", "b", "late"]


@pytest.mark.parametrize(
    ("end_s", "seen"), [(0.5, []), (1.5, ["through"]), (9, ["through", "all"])]
)
def test_a_life_ends_at_once_but_sees_through_what_it_must(end_s: float, seen: list[str]) -> None:
    log: list[str] = []

    async def test() -> None:
        life = Life()

        async def through() -> None:
            await asyncio.sleep(1)
            log.append("through")

        async def work() -> None:
            await asyncio.sleep(1)
            await life.see_through(through())
            log.append("all")

        async with Crew() as crew:
            crew.start(life.play(work()))
            await asyncio.sleep(end_s)
            life.end()
        if end_s < 9:
            await asyncio.sleep(0)
            assert asyncio.get_running_loop().time() == max(end_s, 2.0 if seen else 0.0)

    play(test)
    assert log == seen


def test_a_life_that_ended_before_it_began_does_nothing_and_what_follows_it_runs() -> None:
    log: list[str] = []

    async def test() -> None:
        life = Life()

        async def whole() -> None:
            try:
                await life.play(for_ever(log, "played"))
            finally:
                log.append("after")

        life.end()
        async with Crew() as crew:
            crew.start(whole())

    play(test)
    assert log == ["after"]


def test_dismissal_is_no_end_of_a_life() -> None:
    log: list[str] = []

    async def test() -> None:
        life = Life()

        async def whole() -> None:
            await life.play(for_ever(log, "played"))
            log.append("went on")

        async with Crew() as crew:
            crew.start(whole())
            await asyncio.sleep(1)
            crew.dismiss()

    play(test)
    assert log == ["played"]

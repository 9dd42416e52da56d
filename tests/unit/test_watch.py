"""The watch: a world that stands still is named at once, one that is only quiet is left alone."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from engines.errors import DeadlineExceeded, EngineError, VirtualDeadlock
from engines.kv import Slots, Span
from engines.layout import KvLayout
from engines.messages import Drain, Report, Start
from engines.modelled.clock import VirtualClock
from engines.modelled.fluid import FluidNetwork
from engines.modelled.loop import run_virtual, virtual_loop
from engines.modelled.transport import FluidTransport, Wires
from engines.modelled.watch import LOOK_PERIOD_S, STILL_BEATS, Watch
from engines.seams.transport import Write
from engines.waits import Arena, Places

BEAT_S = 0.5
LAYOUT = KvLayout(token_scale=1, block_tokens=4, layers=1, width=1)


class World:
    """Two hosts on a link of one token a second, and a heart that beats and reports."""

    def __init__(self) -> None:
        self.loop = virtual_loop()
        self.clock = VirtualClock(self.loop)
        wires = Wires(
            FluidNetwork(self.loop, {"link": 4.0}, True), lambda *_: ("link",), LAYOUT, 1e-3
        )
        self.a, self.b = FluidTransport("a", wires), FluidTransport("b", wires)
        self.watch = Watch(self.clock, wires)
        self.ended = ""

    async def beat(self) -> None:
        while True:
            await self.clock.beat_until_s(self.clock.now_s() + BEAT_S)
            self.a.post("b", Report("group", (), ()))

    def live(self, *parts: Callable[[], Awaitable[None]]) -> str:
        """Play the parts beside the heart; what ended the world, if they did not."""

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.beat)
                tasks.start_soon(self.watch.run)
                async with anyio.create_task_group() as played:
                    for part in parts:
                        played.start_soon(part)
                tasks.cancel_scope.cancel()

        try:
            run_virtual(main, self.loop)
        except* EngineError as errors:
            ended: BaseException = errors
            while isinstance(ended, BaseExceptionGroup):
                (ended,) = ended.exceptions
            self.ended = f"{type(ended).__name__} {ended}"
        return self.ended


def test_who_waits_while_only_hearts_beat_is_named_with_the_host() -> None:
    world = World()

    async def part() -> None:
        clock = world.clock.on("de0-buf")
        await clock.sleep_until_s(2.5)
        with clock.deadline(600.0, "the last layer of turn 3"):
            await anyio.Event().wait()

    ended = world.live(part)
    assert ended.startswith(VirtualDeadlock.__name__)
    assert "de0-buf: the last layer of turn 3" in ended and "since 2 s" in ended


def test_whoever_sleeps_until_later_work_keeps_the_world_alive() -> None:
    """An agent that starts after long nothing is no deadlock, and a hang after it is one."""
    world = World()
    came: list[float] = []

    async def part() -> None:
        await world.clock.sleep_until_s(5_000.0)
        came.append(world.clock.now_s())
        with world.clock.deadline(600.0, "an answer"):
            await anyio.Event().wait()

    ended = world.live(part)
    assert came == [5_000.0]
    assert ended.startswith(VirtualDeadlock.__name__) and "an answer" in ended


def test_a_write_that_takes_long_keeps_the_world_alive() -> None:
    world = World()

    async def part() -> None:
        span = Span("dram", 0, 0, 10_000, 0, 1)
        await world.a.write("b", [Write(span, span, Start(1), 1)], deadline_s=1e9)

    assert world.live(part) == ""


def test_messages_but_reports_keep_the_world_alive() -> None:
    world = World()

    async def part() -> None:
        for _ in range(200):
            await world.clock.beat_until_s(world.clock.now_s() + BEAT_S)
            world.a.post("b", Drain())

    assert world.live(part) == ""


def test_a_world_is_still_only_after_many_of_its_slowest_beats() -> None:
    world = World()

    async def slow() -> None:
        while True:
            await world.clock.beat_until_s(world.clock.now_s() + 7.0)

    assert world.live(slow).startswith(VirtualDeadlock.__name__)
    looked_s = world.clock.pending.beat_s * STILL_BEATS
    assert looked_s == 140.0  # and no shorter time was enough: the watch would have ended it


def test_who_missed_a_deadline_is_named_and_who_got_it_is_not() -> None:
    world = World()

    async def part() -> None:
        with world.clock.deadline(1.0, "what came"):
            await world.clock.sleep_until_s(0.5)
        with world.clock.deadline(25.0, "the end of turn 7"):
            await world.clock.sleep_until_s(1e6)

    ended = world.live(part)
    assert ended.startswith(DeadlineExceeded.__name__)
    assert "turn 7" in ended and "what came" not in ended
    ended_s = float(ended.split("at ")[1].split(" s")[0])
    assert 25.5 < ended_s <= 25.5 + LOOK_PERIOD_S


def test_every_host_is_heard_before_one_of_them_fills_the_list() -> None:
    world = World()

    async def main() -> str:
        agents = world.clock.on("agents")
        held = [agents.deadline(100 - n, f"thing {n}") for n in range(50)]
        held.append(world.clock.on("sched").deadline(1e9, "a word"))
        for wait in held:
            wait.__enter__()
        world.watch.meet("store0", lambda: ["turn 1 for the stage"])
        return world.watch.waiting()

    words = run_virtual(main, world.loop).split("; ")
    assert words[:4] == [
        "store0: turn 1 for the stage", "agents: thing 49", "sched: a word", "agents: thing 48",
    ]  # fmt: skip
    assert len(words) == 21 and words[-1] == "and 32 more"


@pytest.mark.parametrize("line", ["arena", "places"])
def test_those_in_line_are_named_until_they_are_served(line: str) -> None:
    async def main() -> list[list[str]]:
        arena, places = Arena(Slots(64, 8), "decode HBM of de0/3"), Places(1, "a read in flight")
        found = []

        async def ask(turn: int) -> None:
            if line == "arena":
                arena.give(await arena.take(48, turn))
            else:
                async with places.of(turn):
                    pass

        slot = await arena.take(56, 1)
        async with anyio.create_task_group() as tasks:
            async with places.of(1):
                tasks.start_soon(ask, 2)
                tasks.start_soon(ask, 3)
                await anyio.sleep(1)
                found.append([*arena.waits(), *places.waits()])
            arena.give(slot)
            await anyio.sleep(1)
            found.append([*arena.waits(), *places.waits()])
        return found

    before, after = run_virtual(main)
    said = {
        "arena": "turn {} for 48 tokens of decode HBM of de0/3, 8 free",
        "places": "turn {} for a read in flight",
    }[line]
    assert before == [said.format(2), said.format(3)]
    assert after == []

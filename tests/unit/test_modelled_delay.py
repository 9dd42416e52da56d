"""Modelled ways with a delay: what crosses them is late by just that, and nothing is slower."""

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
from fakes import running_loop
from hypothesis import given
from hypothesis import strategies as st
from test_modelled import LATENCY_S, LAYOUT, RATE, arrivals, write

from engines.messages import Start
from engines.modelled.fluid import FluidNetwork
from engines.modelled.loop import run_virtual
from engines.modelled.transport import FluidTransport, Wires
from engines.seams.transport import TrafficClass

Played = tuple[list[tuple[Any, float]], list[float], list[float]]


def hosts(delay_s: float) -> dict[str, FluidTransport]:
    """Two hosts on one link, with the same delay either way."""
    network = FluidNetwork(running_loop(), {"link": RATE}, True)
    delay: Callable[[str, str], float] = lambda *_: delay_s  # noqa: E731
    whole = Wires(network, lambda *_: ("link",), LAYOUT, LATENCY_S, delay)
    return {host: FluidTransport(host, whole) for host in ("a", "b")}


def play(tokens: list[int], delay_s: float) -> Played:
    """Doorbells, what each write returned, and when it did."""

    async def main() -> Played:
        pair = hosts(delay_s)
        said_s, back_s = [0.0] * len(tokens), [0.0] * len(tokens)

        async def one(number: int) -> None:
            job = write(tokens[number], number)
            said_s[number] = await pair["a"].write("b", [job], deadline_s=9)
            back_s[number] = anyio.current_time()

        async with anyio.create_task_group() as tasks:
            for number in range(len(tokens)):
                tasks.start_soon(one, number)
        assert pair["a"]._wires.under_way == 0
        return await arrivals(pair["b"], len(tokens)), said_s, back_s

    return run_virtual(main)


@given(
    st.lists(st.integers(0, 80), min_size=1, max_size=8),
    st.floats(0, 9, allow_subnormal=False),
)
def test_every_write_is_late_by_the_delay_and_its_acknowledgement_by_two(
    tokens: list[int], delay_s: float
) -> None:
    plain, said_s, back_s = play(tokens, 0.0)
    late, late_said_s, late_back_s = play(tokens, delay_s)
    assert [message for message, _ in late] == [message for message, _ in plain]
    assert [at_s for _, at_s in late] == pytest.approx([at_s + delay_s for _, at_s in plain])
    assert late_said_s == pytest.approx([at_s + delay_s for at_s in said_s])
    assert late_back_s == pytest.approx([at_s + 2 * delay_s for at_s in back_s])


def test_collectives_are_late_and_control_is_not() -> None:
    async def main() -> list[tuple[Any, float]]:
        pair = hosts(3.0)
        pair["a"].post("b", Start(1), TrafficClass.MODEL)
        pair["a"].post("b", Start(2))
        return await arrivals(pair["b"], 2)

    found = run_virtual(main)
    assert found == [(Start(2), LATENCY_S), (Start(1), pytest.approx(3.0 + 32 / RATE))]


def test_what_waits_for_its_due_time_is_under_way() -> None:
    async def main() -> list[int]:
        pair = hosts(2.0)
        seen = []
        async with anyio.create_task_group() as tasks:
            job: Callable[[], Coroutine[Any, Any, float]] = lambda: pair["a"].write(  # noqa: E731
                "b", [write(0, 1)], deadline_s=9
            )
            tasks.start_soon(job)
            for _ in range(5):
                await anyio.sleep(0.9)  # at 0.9 to 4.5 s: the acknowledgement is due at 4
                seen.append(pair["a"]._wires.under_way)
        return seen

    assert run_virtual(main) == [1, 1, 1, 1, 0]

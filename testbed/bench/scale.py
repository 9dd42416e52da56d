"""Large clusters in virtual time: what a turn costs us, and memory."""

import asyncio
import resource
import time

from testbed.bench.table import Bench, Case

GROUP = "scale"
WINDOW_S = 600.0
CASES: dict[str, Case] = {
    f"{GROUP}-speed": (
        "run", "topologies/2p4d-27b.yaml", "--world", "virtual",
        "--set", "scale.layers=1", "--set", "workload.turns=4",
    ),
    f"{GROUP}-2p4d": (
        "run", "topologies/48p96d.yaml", "--world", "virtual",
        "--set", "cluster.prefill_nodes=2", "--set", "cluster.decode_nodes=4",
        "--set", "workload.agents=2048",
    ),
    f"{GROUP}-48p96d": ("run", "topologies/48p96d.yaml", "--world", "virtual"),
    f"{GROUP}-window": (
        "run", "topologies/48p96d.yaml", "--world", "virtual",
        "--set", "workload.turns=24", "--set", f"workload.window_s={WINDOW_S:g}",
    ),
}  # fmt: skip


def claims(bench: Bench) -> None:
    """Every claim whose cases were run."""
    bench.check([
        ({f"{GROUP}-speed"}, _speed),
        ({f"{GROUP}-2p4d", f"{GROUP}-48p96d"}, _scale_out),
        ({f"{GROUP}-window"}, _window),
    ])  # fmt: skip


def _speed(bench: Bench) -> None:
    turn_s = 1 / bench.policy(f"{GROUP}-speed", "dualpath")["turns_per_wall_s"]
    bench.at_least("2P4D in virtual time: turns in a second of ours", 1 / turn_s, 2500)
    switches = turn_s / _switch_s()
    bench.claim("the same: a turn in bare switches of asyncio tasks", switches, "", None)


def _switch_s() -> float:
    """What it takes asyncio to wake one task: what every step of a turn pays at least."""
    count = 100_000

    async def switch() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            woken = loop.create_future()
            loop.call_soon(woken.set_result, None)
            await woken

    began_s = time.perf_counter()
    asyncio.run(switch())
    return (time.perf_counter() - began_s) / count


def _scale_out(bench: Bench) -> None:
    small, large = (bench.policy(f"{GROUP}-{name}", "dualpath") for name in ("2p4d", "48p96d"))
    bench.alike("mean JCT: 48P96D with 49,152 agents over 2P4D with 2,048",
                large["jct_s"]["mean"], small["jct_s"]["mean"], 0.03)  # fmt: skip
    growth = small["turns_per_wall_s"] / large["turns_per_wall_s"]
    bench.claim("cost of a turn: 144 nodes over 6", growth, "<= 2.5", growth <= 2.5)


def _window(bench: Bench) -> None:
    policy = bench.policy(f"{GROUP}-window", "dualpath")
    wall_s = WINDOW_S / policy["virtual_s_per_wall_s"]  # turns under way then are played to the end
    memory_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    what = f"48P96D, {WINDOW_S:g} s"
    bench.claim(f"{what}: {policy['completed_turns']} turns; minutes of ours", wall_s / 60, "<= 15",
                wall_s <= 900)  # fmt: skip
    bench.claim(f"{what}: virtual seconds in one of ours", policy["virtual_s_per_wall_s"], "", None)
    bench.claim(f"{what}: memory, GiB", memory_gib, "<= 8", memory_gib <= 8)

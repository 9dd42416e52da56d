"""The claims of the README, measured again: `scripts/bench`.

Each case is a comparison or run of the ordinary command; what is claimed is a ratio between
measurements of the same call of this script, or against a bound that the run itself printed.
"""

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from testbed.bound import Reads, reads_of
from testbed.cluster import port_interval
from testbed.results import parity
from testbed.results.utilisation import by_kind
from testbed.spec import load_experiment

Case = tuple[str, ...]
Policy = dict[str, Any]


def interval_settings(prefill: int, decode: int) -> Case:
    """Options for xPyD, its prefill nodes in one group (topologies/interval.yaml says why)."""
    keys = {"prefill_nodes": prefill, "decode_nodes": decode, "group_nodes": prefill}
    return tuple(
        word for key, value in keys.items() for word in ("--set", f"cluster.{key}={value}")
    )


VIRTUALLY = "-virtual"
INTERVAL = "interval"
SCALE = "scale"
WINDOW_S = 600.0
INTERVAL_SHAPES = ((1, 8), (1, 6), (1, 2), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1))  # P, D
CASES: dict[str, Case] = {
    "1p1d": ("compare", "topologies/1p1d.yaml"),
    "1p2d": ("compare", "topologies/1p2d.yaml"),
    "2p1d": ("compare", "topologies/2p1d.yaml"),
    "slow-nic": (
        "compare", "topologies/1p2d.yaml", "--policies", "static-split,dualpath",
        "--set", "nodes.de1.snic_share=0.35",
    ),
    "half-rate": (
        "run", "topologies/1p1d.yaml", "--policy", "basic", "--set", "hardware.snic_share=0.35",
    ),
    "tau-4": ("run", "topologies/1p2d.yaml", "--time-scale", "4"),
    "tau-0.25": ("compare", "topologies/1p1d.yaml", "--policies", "dualpath",
                 "--time-scale", "0.25"),
    "real-sessions": ("compare", "topologies/weka.yaml"),
    **{
        f"{name}{VIRTUALLY}": ("compare", f"topologies/{name}.yaml", "--world", "virtual")
        for name in ("1p1d", "1p2d", "2p1d")
    },
    **{
        f"{INTERVAL}-{prefill}p{decode}d": (
            "run", "topologies/interval.yaml", "--world", "virtual",
            *interval_settings(prefill, decode),
        )
        for prefill, decode in INTERVAL_SHAPES
    },
    f"{SCALE}-speed": (
        "run", "topologies/2p4d.yaml", "--world", "virtual",
        "--set", "scale.layers=1", "--set", "workload.turns=4",
    ),
    f"{SCALE}-2p4d": ("run", "topologies/2p4d-660b.yaml", "--world", "virtual"),
    f"{SCALE}-48p96d": ("run", "topologies/48p96d.yaml", "--world", "virtual"),
    f"{SCALE}-window": (
        "run", "topologies/48p96d.yaml", "--world", "virtual",
        "--set", "workload.turns=24", "--set", f"workload.window_s={WINDOW_S:g}",
    ),
}  # fmt: skip
GROUPS = (INTERVAL, SCALE)


class Bench:
    """Results by case, and the claims on them."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.rows: list[tuple[str, str, str, bool | None]] = []

    def policy(self, case: str, name: str) -> Policy:
        """One policy's part of a case's result."""
        found: Policy = self.results[case]["policies"][name]
        return found

    def rate(self, case: str, name: str) -> float:
        """Steady turns/s in target units."""
        return float(self.policy(case, name)["throughput_turns_per_s"])

    def claim(self, what: str, value: float, wanted: str, holds: bool | None) -> None:
        """A row of the table."""
        self.rows.append((what, f"{value:.3f}", wanted, holds))

    def at_least(self, what: str, value: float, least: float) -> None:
        """A ratio that must not be smaller."""
        self.claim(what, value, f">= {least:g}", value >= least)

    def alike(self, what: str, one: float, other: float, tolerance: float) -> None:
        """Two rates that must agree."""
        ratio = one / other
        self.claim(what, ratio, f"1 +- {tolerance:g}", abs(ratio - 1) <= tolerance)


def claims(bench: Bench) -> None:
    """Every claim whose cases were run."""
    wanted: list[tuple[set[str], Callable[[Bench], None]]] = [
        ({"1p1d"}, _one_pair),
        ({"1p2d"}, _two_decode_nodes),
        ({"2p1d"}, _two_prefill_nodes),
        ({"1p1d", "1p2d"}, _basic_alike),
        ({"1p1d", "2p1d"}, _two_nics_alike),
        ({"slow-nic"}, _slow_nic),
        ({"1p1d", "half-rate"}, _half_rate),
        ({"1p2d", "tau-4"}, _time_scale),
        ({"tau-0.25"}, _overload),
        ({"real-sessions"}, _real_sessions),
        ({f"{SCALE}-speed"}, _speed),
        ({f"{SCALE}-2p4d", f"{SCALE}-48p96d"}, _scale_out),
        ({f"{SCALE}-window"}, _window),
    ]
    for needed, check in wanted:
        if needed <= bench.results.keys():
            check(bench)
    for case in bench.results:
        if case.endswith(VIRTUALLY) and case.removesuffix(VIRTUALLY) in bench.results:
            _parity(bench, case.removesuffix(VIRTUALLY))
    for prefill, decode in INTERVAL_SHAPES:
        if f"{INTERVAL}-{prefill}p{decode}d" in bench.results:
            _interval(bench, prefill, decode)
    for case, result in bench.results.items():
        for name, policy in result["policies"].items():
            right = policy["tokens_equal"] == policy["tokens_checked"] > 0
            share = policy["tokens_equal"] / max(1, policy["tokens_checked"])
            bench.claim(f"{case}, {name}: right of {policy['tokens_checked']} tokens", share,
                        "1", right)  # fmt: skip


def _bounds(bench: Bench, case: str) -> None:
    for name in ("basic", "dualpath"):
        bound = bench.policy(case, name)["bound"]
        reached = bench.rate(case, name) / bound["turns_per_s"]
        bench.at_least(f"{case}, {name}: of its bound", reached, 0.95)
        bench.at_least(f"{case}, {name}: {bound['binds']}, of their limit",
                       _used(bench.policy(case, name), name), 0.95)  # fmt: skip


def _used(policy: Policy, name: str) -> float:
    """The share of the resource that the bound names which counters or accounts say was used."""
    nodes = policy["nodes"].items()
    match policy["bound"]["binds"]:
        case "SNICs":
            reading = {Reads.PE: "pe", Reads.DE: "de", Reads.BOTH: ""}[reads_of(name)]
            return fmean(shares["snic"] for node, shares in nodes if node.startswith(reading))
        case "PE compute":
            return float(policy["gpu_busy_share"])
        case "DE HBM":
            return fmean(shares["hbm_held"] for node, shares in nodes if node.startswith("de"))
        case other:
            raise click.ClickException(f"nothing counts how far {other} was used")


def _one_pair(bench: Bench) -> None:
    bench.at_least("1P1D: dualpath over basic", bench.results["1p1d"]["speedup"]["dualpath"], 1.8)
    _bounds(bench, "1p1d")


def _two_decode_nodes(bench: Bench) -> None:
    bench.at_least("1P2D: dualpath over basic", bench.results["1p2d"]["speedup"]["dualpath"], 2.3)
    _bounds(bench, "1p2d")


def _two_prefill_nodes(bench: Bench) -> None:
    _bounds(bench, "2p1d")


def _basic_alike(bench: Bench) -> None:
    bench.alike("basic: 1P1D over 1P2D", bench.rate("1p1d", "basic"),
                bench.rate("1p2d", "basic"), 0.05)  # fmt: skip


def _two_nics_alike(bench: Bench) -> None:
    bench.alike("two NICs: dualpath 1P1D over basic 2P1D", bench.rate("1p1d", "dualpath"),
                bench.rate("2p1d", "basic"), 0.05)  # fmt: skip


def _slow_nic(bench: Bench) -> None:
    ratio = bench.rate("slow-nic", "dualpath") / bench.rate("slow-nic", "static-split")
    bench.at_least("one NIC at half rate: dualpath over an equal split", ratio, 1.2)


def _half_rate(bench: Bench) -> None:
    half, whole = bench.rate("half-rate", "basic"), bench.rate("1p1d", "basic")
    bench.alike("basic: twice its rate at half the SNIC over the whole one", 2 * half, whole, 0.03)


def _time_scale(bench: Bench) -> None:
    bench.alike("1P2D dualpath: time scale 4 over 2", bench.rate("tau-4", "dualpath"),
                bench.rate("1p2d", "dualpath"), 0.03)  # fmt: skip


def _overload(bench: Bench) -> None:
    timing = bench.results["tau-0.25"]["verdict"]["timing"]
    bench.claim("time scale 0.25 is found out", float(timing == "inconclusive"), "1",
                timing == "inconclusive")  # fmt: skip


def _real_sessions(bench: Bench) -> None:
    result = bench.results["real-sessions"]
    bench.claim("real sessions: dualpath over basic", result["speedup"]["dualpath"], "", None)


def _speed(bench: Bench) -> None:
    turn_s = 1 / bench.policy(f"{SCALE}-speed", "dualpath")["turns_per_wall_s"]
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
    small, large = (bench.policy(f"{SCALE}-{name}", "dualpath") for name in ("2p4d", "48p96d"))
    bench.alike("mean JCT: 48P96D with 49,152 agents over 2P4D with 2,048",
                large["jct_s"]["mean"], small["jct_s"]["mean"], 0.03)  # fmt: skip
    growth = small["turns_per_wall_s"] / large["turns_per_wall_s"]
    bench.claim("cost of a turn: 144 nodes over 6", growth, "<= 2.5", growth <= 2.5)


def _window(bench: Bench) -> None:
    policy = bench.policy(f"{SCALE}-window", "dualpath")
    wall_s = WINDOW_S / policy["virtual_s_per_wall_s"]  # turns under way then are played to the end
    memory_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    what = f"48P96D, {WINDOW_S:g} s"
    bench.claim(f"{what}: {policy['completed_turns']} turns; minutes of ours", wall_s / 60, "<= 15",
                wall_s <= 900)  # fmt: skip
    bench.claim(f"{what}: virtual seconds in one of ours", policy["virtual_s_per_wall_s"], "", None)
    bench.claim(f"{what}: memory, GiB", memory_gib, "<= 8", memory_gib <= 8)


def _parity(bench: Bench, case: str) -> None:
    emulated, virtual = bench.results[case], bench.results[case + VIRTUALLY]
    alike = parity.same_order(emulated, virtual)
    bench.claim(f"{case}: both worlds rank policies alike", float(alike), "1", alike)
    for found in parity.rates(emulated, virtual):
        what = f"{case}, {found.what}: virtual over emulated"
        bench.alike(what, found.virtual, found.emulated, found.tolerance)
    worst = max(parity.ports(emulated, virtual), key=lambda found: abs(found.ratio - 1))
    what = f"{case}, bytes a turn, worst port ({worst.what}): virtual over emulated"
    bench.alike(what, worst.virtual, worst.emulated, worst.tolerance)


def _interval(bench: Bench, prefill: int, decode: int) -> None:
    """What saturates first is what the closed form says; second is told beside it."""
    case = f"{INTERVAL}-{prefill}p{decode}d"
    settings = [word for word in CASES[case] if word.startswith("cluster.")]
    experiment = load_experiment(Path("topologies/interval.yaml"), settings)
    wanted = port_interval(experiment).first(prefill / decode)
    used = by_kind(bench.policy(case, "dualpath")["utilisation"])
    first, second = sorted(used, key=used.__getitem__, reverse=True)[:2]
    what = f"P/D {prefill}/{decode}: {first} saturates first (then {second} {used[second]:.3f})"
    bench.claim(what, used[first], f"{wanted} >= 0.95", first == wanted and used[first] >= 0.95)


def play(case: str, runs: Path) -> Any:
    """One case's result; its progress goes to standard error."""
    command = [sys.executable, "-m", "testbed.cli.main", *CASES[case], "--json",
               *(["--fresh"] if CASES[case][0] == "compare" else []),
               "--runs", str(runs)]  # fmt: skip
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if not ended.stdout:
        raise click.ClickException(f"case {case} gave no result (exit code {ended.returncode})")
    return json.loads(ended.stdout)


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice([*CASES, *GROUPS]))
@click.option("--json", "as_json", is_flag=True, help="Claims as JSON.")
def main(cases: tuple[str, ...], as_json: bool) -> None:
    """Measure CASES and check the claims; by default all but `scale`, about half an hour."""
    chosen = [case for case in cases or CASES if case not in GROUPS]
    if not cases:
        chosen = [case for case in chosen if not case.startswith(SCALE)]
    for group in set(cases).intersection(GROUPS):
        chosen += [case for case in CASES if case.startswith(f"{group}-")]
    results = {}
    with tempfile.TemporaryDirectory(prefix="dualpath-bench-") as runs:
        for case in dict.fromkeys(chosen):
            click.echo(f"bench: {case}", err=True)
            results[case] = play(case, Path(runs))
    bench = Bench(results)
    claims(bench)
    if as_json:
        click.echo(json.dumps([list(row) for row in bench.rows]))
    else:
        table = Table("claim", "measured", "wanted", "", box=None)
        for what, value, wanted, holds in bench.rows:
            table.add_row(what, value, wanted, {True: "ok", False: "FAILED", None: ""}[holds])
        Console().print(table)
    sys.exit(any(holds is False for *_, holds in bench.rows))


if __name__ == "__main__":
    main()

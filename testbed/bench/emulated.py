"""Small clusters on namespaces: who is faster, by how much, and whose limit it is."""

from statistics import fmean

import click

from testbed.bench.table import Bench, Case, Policy
from testbed.bound import Reads, reads_of

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
}  # fmt: skip


def claims(bench: Bench) -> None:
    """Every claim whose cases were run."""
    bench.check([
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
    ])  # fmt: skip


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

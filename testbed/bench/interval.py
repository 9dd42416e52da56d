"""Which P/D saturates what first, against the closed form."""

from pathlib import Path

from testbed.bench.table import Bench, Case
from testbed.cluster import port_interval
from testbed.results.utilisation import by_kind
from testbed.spec import load_experiment

GROUP = "interval"
SHAPES = ((1, 8), (1, 6), (1, 2), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1))  # P, D


def interval_settings(prefill: int, decode: int) -> Case:
    """Options for xPyD, its prefill nodes in one group (topologies/interval.yaml says why)."""
    keys = {"prefill_nodes": prefill, "decode_nodes": decode, "group_nodes": prefill}
    return tuple(
        word for key, value in keys.items() for word in ("--set", f"cluster.{key}={value}")
    )


CASES: dict[str, Case] = {
    f"{GROUP}-{prefill}p{decode}d": (
        "run", "topologies/interval.yaml", "--world", "virtual",
        *interval_settings(prefill, decode),
    )
    for prefill, decode in SHAPES
}  # fmt: skip


def claims(bench: Bench) -> None:
    """Each shape that was run."""
    for prefill, decode in SHAPES:
        if f"{GROUP}-{prefill}p{decode}d" in bench.results:
            _interval(bench, prefill, decode)


def _interval(bench: Bench, prefill: int, decode: int) -> None:
    """What saturates first is what the closed form says; second is told beside it."""
    case = f"{GROUP}-{prefill}p{decode}d"
    settings = [word for word in CASES[case] if word.startswith("cluster.")]
    experiment = load_experiment(Path("topologies/interval.yaml"), settings)
    wanted = port_interval(experiment).first(prefill / decode)
    used = by_kind(bench.policy(case, "dualpath")["utilisation"])
    first, second = sorted(used, key=used.__getitem__, reverse=True)[:2]
    what = f"P/D {prefill}/{decode}: {first} saturates first (then {second} {used[second]:.3f})"
    bench.claim(what, used[first], f"{wanted} >= 0.95", first == wanted and used[first] >= 0.95)

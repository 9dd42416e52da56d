"""The same clusters in virtual time, against those on namespaces."""

from testbed.bench.table import Bench, Case
from testbed.results import parity

GROUP = "parity"
VIRTUALLY = "-virtual"
SHAPES = ("1p1d", "1p2d", "2p1d")
# All that move bytes: `oracle` does not.
EVERY = (
    "basic", "dualpath", "static-split", "split", "least-loaded", "round-robin", "random",
    "static", "pe-only", "de-only", "affinity", "dualpath-affinity",
)  # fmt: skip


def _every(shape: str) -> Case:
    return (
        "compare", f"topologies/{shape}.yaml", "--policies", ",".join(EVERY),
        "--require", "functional",
    )  # fmt: skip


CASES: dict[str, Case] = {
    **{
        f"{name}{VIRTUALLY}": ("compare", f"topologies/{name}.yaml", "--world", "virtual")
        for name in SHAPES
    },
    **{f"{GROUP}-{name}": _every(name) for name in SHAPES},
    **{f"{GROUP}-{name}{VIRTUALLY}": (*_every(name), "--world", "virtual") for name in SHAPES},
}


def claims(bench: Bench) -> None:
    """Each case that was run in both worlds."""
    for case in CASES:
        emulated = case.removesuffix(VIRTUALLY)
        if emulated != case and {case, emulated} <= bench.results.keys():
            _parity(bench, emulated)


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

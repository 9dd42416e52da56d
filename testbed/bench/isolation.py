"""Traffic classes keep KV from collectives, and so from decode (docs/isolation.md)."""

from testbed.bench.table import Bench, Case, Policy
from testbed.isolation import CLASSES, NO_CLASSES, NO_KV, SUFFERS, WITHIN

CASES: dict[str, Case] = {
    "isolation": ("isolation", "topologies/isolation.yaml"),
    "isolation-virtual": ("isolation", "topologies/isolation.yaml", "--world", "virtual"),
}
WORTH_THE_NAME = 20  # times the KV of the run without KV, beside collectives


def claims(bench: Bench) -> None:
    """Each world that was run."""
    for case in CASES:
        if case in bench.results:
            _isolation(bench, case)


def _isolation(bench: Bench, case: str) -> None:
    alone, classes, none = (bench.policy(case, name) for name in (NO_KV, CLASSES, NO_CLASSES))
    kv = _decode(classes, "kv_bps") / _decode(alone, "kv_bps")
    bench.at_least(f"{case}: KV beside collectives, over the run without", kv, WORTH_THE_NAME)
    found = {
        "TPOT": [_tpot_s(one) for one in (alone, classes, none)],
        "collectives p99": [_decode(one, "p99_ms") for one in (alone, classes, none)],
    }
    for what, (base, kept, lost) in found.items():
        ratio = kept / base
        bench.claim(f"{case}, with classes: {what} over that without KV", ratio,
                    f"<= {1 + WITHIN:g}", ratio <= 1 + WITHIN)  # fmt: skip
        bench.at_least(f"{case}, no classes: {what} over that without KV", lost / base, SUFFERS)


def _tpot_s(policy: Policy) -> float:
    return float(policy["tpot_s"]["mean"])


def _decode(policy: Policy, field: str) -> float:
    return float(policy["collectives"]["de"][field])

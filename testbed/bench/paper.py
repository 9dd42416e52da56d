"""The 660B model on 2P4D beside the paper's figures; what was fitted: docs/paper-ratios.md."""

from testbed.bench.table import Bench, Case

PAPER = "paper"
# What the paper's ablation adds one by one, and by how many percent that cut the mean JCT of
# `basic` (section 7, figure 12, on 660B and the 64K set).
ABLATION = {
    "basic+layerwise": 17.2,
    "basic+layerwise+dual-path": 38.2,
    "dualpath": 45.6,
}
PAPER_SPEEDUP, PAPER_ORACLE = 1.87, 2.05  # over `basic` (figure 7; turns/s of section 7's readings)
CASES: dict[str, Case] = {
    PAPER: ("compare", "topologies/2p4d.yaml", "--world", "virtual",
            "--policies", ",".join(("basic", *ABLATION, "oracle"))),
}  # fmt: skip


def claims(bench: Bench) -> None:
    """If it was run."""
    bench.check([({PAPER}, _paper)])


def _paper(bench: Bench) -> None:
    speedup = bench.results[PAPER]["speedup"]
    fast = speedup["dualpath"]
    bench.claim("660B on 2P4D: dualpath over basic", fast, f"1.7 to 2.0 (paper {PAPER_SPEEDUP})",
                1.7 <= fast <= 2.0)  # fmt: skip
    bench.claim("660B on 2P4D: oracle over basic", speedup["oracle"], f"(paper {PAPER_ORACLE})",
                None)  # fmt: skip
    before_s = jct_s = float(bench.policy(PAPER, "basic")["jct_s"]["mean"])
    for name, paper in ABLATION.items():
        before, jct_s = jct_s, float(bench.policy(PAPER, name)["jct_s"]["mean"])
        bench.claim(f"660B on 2P4D, {name}: mean JCT cut by, %", 100 * (1 - jct_s / before_s),
                    f"more than before (paper {paper:g})", jct_s < before)  # fmt: skip

"""What a run shows: bars of the right length, every policy and node, the verdict's causes."""

import io

import msgspec
import pytest
from rich.console import Console
from test_metrics import BOUND, run_data
from test_timing import weighed

from testbed.results.metrics import measure
from testbed.results.picture import (
    BAR_CELLS,
    MOST_NODES,
    bar,
    bar_cells,
    show,
    shown_nodes,
    verdict_text,
)
from testbed.results.schema import Comparison, NodeShares, Verdict


def comparison(verdict: Verdict | None = None) -> Comparison:
    """Two policies, the second twice as fast."""
    slow = measure(run_data(), lambda *_: BOUND, 1)
    fast = msgspec.structs.replace(slow, throughput_turns_per_s=2.0)
    return Comparison(
        experiment="1p1d",
        world="emulated",
        seed=0,
        time_scale=2.0,
        token_scale=64,
        verdict=verdict or Verdict("passed", "faithful", ()),
        policies={"basic": slow, "dualpath": fast},
        speedup={"basic": 1.0, "dualpath": 2.0},
        folder="runs/1p1d-1",
    )


def shown(found: Comparison, columns: int = 140) -> str:
    out = io.StringIO()
    show(found, Console(file=out, width=columns, color_system=None))
    return out.getvalue()


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_two_policies_fit_side_by_side(columns: int) -> None:
    lines = shown(comparison(), columns).splitlines()
    assert "…" not in "".join(lines)
    bars = [line for line in lines if "storage NIC" in line]
    assert len(bars) == 2 and all(line.count("%") == 2 for line in bars)


def test_hits_from_dram_are_shown_where_there_are_any() -> None:
    found = comparison()
    assert "DRAM" not in shown(found)
    fast = found.policies["dualpath"]
    nodes = {
        node: msgspec.structs.replace(shares, dram_hits=0.37 if node == "de0" else 0.0)
        for node, shares in fast.nodes.items()
    }
    hitting = msgspec.structs.replace(fast, nodes=nodes, dram_hit_share=0.24)
    found = msgspec.structs.replace(found, policies={**found.policies, "dualpath": hitting})
    lines = [line for line in shown(found).splitlines() if "hits from DRAM" in line]
    assert len(lines) == 3  # a bar of either node, and the line of numbers
    assert "37%" in lines[1] and "37%" not in lines[0] and "24%" in lines[2]


def test_a_virtual_run_says_how_fast_its_time_went() -> None:
    found = comparison()
    policies = {
        name: msgspec.structs.replace(result, virtual_s_per_wall_s=12.3)
        for name, result in found.policies.items()
    }
    found = msgspec.structs.replace(found, world="virtual", policies=policies)
    assert "virtual, 12.3 s a real second" in shown(found)


def test_a_run_of_one_policy_has_nothing_to_be_faster_than() -> None:
    both = comparison()
    alone = msgspec.structs.replace(both, policies={"basic": both.policies["basic"]})
    assert "speed-up" in shown(both) and "speed-up" not in shown(alone)


@pytest.mark.parametrize("columns", [80, 100])
def test_the_title_is_not_cut(columns: int) -> None:
    assert "1 token for 64 ─" in shown(comparison(), columns)


def test_bars_shrink_no_further_than_can_be_read() -> None:
    assert bar_cells(200, 1) == bar_cells(100, 2) == BAR_CELLS
    assert bar_cells(40, 3) == 6


@pytest.mark.parametrize(("share", "full", "percent"), [
    (0.0, 0, "0%"), (0.5, BAR_CELLS // 2, "50%"), (1.0, BAR_CELLS, "100%"),
    (1.7, BAR_CELLS, "170%"), (-0.1, 0, "-10%"),
])  # fmt: skip
def test_a_bar_is_as_long_as_its_share_and_never_longer_than_its_place(
    share: float, full: int, percent: str
) -> None:
    text = bar(share, "cyan").plain
    cells = text[:BAR_CELLS]
    assert cells == "█" * full + "·" * (BAR_CELLS - full)
    assert text[BAR_CELLS:].strip() == percent


def test_a_bar_shows_eighths_of_a_cell() -> None:
    assert bar(1.5 / BAR_CELLS, "cyan").plain.startswith("█▌·")


def test_the_picture_names_policies_nodes_numbers_and_folder() -> None:
    text = shown(comparison())
    said = ("basic", "dualpath", "pe0", "de0", "2.00x", "75% / 25%", "runs/1p1d-1")
    for words in (*said, "functional: passed", "timing: faithful", "1 s takes 2 s here"):
        assert words in text
    lines = text.splitlines()
    throughput = next(line for line in lines if "turns/s, steady" in line)
    assert throughput.split()[-3:-1] == ["1.0", "2.0"]
    # Prefill nodes wait for KV, decode nodes hold it.
    assert sum("GPU waiting for KV" in line for line in lines) == 1
    assert sum("HBM held" in line for line in lines) == 1


def test_three_policies_of_long_names_fit_into_80_columns() -> None:
    found = comparison()
    names = ("affinity", "dualpath", "dualpath-affinity")
    hitting = msgspec.structs.replace(found.policies["basic"], dram_hit_share=0.5)
    found = msgspec.structs.replace(
        found, policies=dict.fromkeys(names, hitting), speedup=dict.fromkeys(names, 1.0)
    )
    lines = shown(found, 80).splitlines()
    assert lines[1].split()[1:-1] == ["node", *names]
    assert sum("GPU waiting for KV" in line for line in lines) == 1


def test_many_nodes_are_told_by_mean_most_and_least_of_their_side() -> None:
    few = {f"de{n}": NodeShares(n / 100, 0.5, 0.0, 0.1) for n in range(MOST_NODES)}
    assert shown_nodes(few) == few
    many = {"pe0": NodeShares(0.9, 0.2, 0.3, 0.0), "pe1": NodeShares(0.7, 0.4, 0.1, 0.0), **few}
    found = shown_nodes(many)
    assert list(found) == ["pe mean", "pe most", "pe least", "de mean", "de most", "de least"]
    assert found["pe most"] == NodeShares(0.9, 0.4, 0.3, 0.0)
    assert found["pe least"] == NodeShares(0.7, 0.2, 0.1, 0.0)
    assert found["de mean"].snic == pytest.approx(0.055)


def test_causes_stand_below_the_verdict() -> None:
    verdict = Verdict("failed", "inconclusive", ("basic: late", "dualpath: wrong"))
    assert verdict_text(verdict).plain.splitlines() == [
        "functional: failed   timing: inconclusive", "  - basic: late", "  - dualpath: wrong",
    ]  # fmt: skip
    assert "- dualpath: wrong" in shown(comparison(verdict))


def test_what_the_machine_did_stands_in_the_table_and_notes_below_the_verdict() -> None:
    found = comparison()
    timing = weighed(foreign=0.3, lacking=0.0, model_drops=0)
    seen = msgspec.structs.replace(found.policies["basic"], timing=timing, cpu_ms_per_turn=1.0)
    lines = shown(msgspec.structs.replace(found, policies={"basic": seen})).splitlines()
    (others,) = (line for line in lines if "CPU used by others" in line)
    assert "30%" in others
    (dropped,) = (line for line in lines if "packets dropped" in line)
    assert "7 / 0" in dropped
    (note,) = (line for line in lines if "note: basic:" in line)
    assert "other programs used 30% of the 2 cores" in note
    unseen = msgspec.structs.replace(seen, timing=None)
    text = shown(msgspec.structs.replace(found, policies={"basic": unseen}))
    assert "CPU used by others" not in text and "note:" not in text

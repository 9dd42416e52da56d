"""Curves of a sweep: panels, means over seeds, what is left out, and what the picture shows."""

import io
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from testbed.errors import EnvironmentUnfit
from testbed.sweep import plot
from testbed.sweep.curves import MOST_ROWS, Curves, curves, show
from testbed.sweep.play import Measured
from testbed.sweep.table import Line


def line(policy: str, agents: int, turns_per_s: float, **more: Any) -> Line:
    measured = Measured(
        turns_per_s=turns_per_s, ttft_mean_s=0.5, ttft_p99_s=2.0, slo_ok=True, binds="SNICs",
        functional="passed", timing="faithful",
    )  # fmt: skip
    where = {"shape": "1P1D", "prefill_nodes": 1, "decode_nodes": 1}
    point = {**where, "policy": policy, "agents": agents, "aps": None, "seed": 0}
    return {**point, **msgspec.to_builtins(measured), "key": "x", **more}


def two_panels() -> Curves:
    return curves([
        line(policy, agents, agents / 10 * factor, shape=shape)
        for shape in ("1P1D", "2P1D")
        for agents in (200, 100)
        for policy, factor in (("basic", 1), ("dualpath", 2))
    ])  # fmt: skip


def test_a_panel_a_cluster_and_a_curve_a_policy_in_order_of_load() -> None:
    found = two_panels()
    assert found.load == "agents"
    assert [panel.title for panel in found.panels] == ["1P1D", "2P1D"]
    for panel in found.panels:
        assert list(panel.curves) == ["basic", "dualpath"]
        assert [mark.load for mark in panel.curves["dualpath"]] == [100, 200]
        assert [mark.turns_per_s for mark in panel.curves["dualpath"]] == [20, 40]


def test_seeds_become_a_mean_and_a_range() -> None:
    found = curves([
        line("basic", 100, 10, seed=0, ttft_mean_s=1.0),
        line("basic", 100, 14, seed=1, ttft_mean_s=3.0, slo_ok=False, timing="inconclusive"),
    ])  # fmt: skip
    (mark,) = found.panels[0].curves["basic"]
    assert (mark.turns_per_s, mark.lowest_turns_per_s, mark.highest_turns_per_s) == (12, 10, 14)
    assert mark.ttft_mean_s == 2.0 and not mark.slo_ok and not mark.faithful


def test_only_settings_that_vary_make_panels() -> None:
    lines = [
        line("basic", 100, 10, **{"scale.layers": 1, "hardware.snic_share": share})
        for share in (0.35, 0.7)
    ]
    titles = [panel.title for panel in curves(lines).panels]
    assert titles == ["1P1D, snic_share 0.35", "1P1D, snic_share 0.7"]


def test_settings_with_the_same_last_word_keep_their_whole_key() -> None:
    keys = ("nodes.pe0.snic_share", "nodes.de0.snic_share")
    lines = [line("basic", 1, 1, **dict.fromkeys(keys, share)) for share in (2e10, 3e10)]
    titles = [panel.title for panel in curves(lines).panels]
    assert titles[0] == "1P1D, nodes.pe0.snic_share 2e+10, nodes.de0.snic_share 2e+10"
    title = plot.draw(curves(lines)).axes[0].get_title()
    assert max(map(len, title.splitlines())) <= plot.TITLE_COLUMNS


def test_rates_of_arrival_are_the_load_if_there_are_any() -> None:
    found = curves([line("basic", agents, 1, aps=0.5) for agents in (5, 9)])
    assert found.load == "agents/s"
    assert [panel.title for panel in found.panels] == ["1P1D, agents 5", "1P1D, agents 9"]


def test_points_without_times_are_left_out() -> None:
    failed = line("basic", 100, 1) | msgspec.to_builtins(Measured(error="RunFailed: no"))
    found = curves([failed, line("basic", 200, 2)])
    assert [mark.load for mark in found.panels[0].curves["basic"]] == [200]
    assert curves([failed]).panels == [] and shown(curves([failed])) == ""


def shown(found: Curves) -> str:
    out = io.StringIO()
    show(found, Console(file=out, width=80, color_system=None))
    return out.getvalue()


def test_a_terminal_shows_every_load_and_policy_in_80_columns() -> None:
    text = shown(curves([
        line("static-split", 100_000, 1234.5, binds="agents in flight", timing="inconclusive"),
        line("dualpath", 100_000, 2469.0, ttft_mean_s=1234.5, ttft_p99_s=5432.1, slo_ok=False),
    ]))  # fmt: skip
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    split, dual = (row for row in text.splitlines() if "SNICs" in row or "flight" in row)
    assert "100000" in split and "█████·····" in split and "1234.5 ~" in split
    assert "██████████ 2469.0" in dual and "~" not in dual and "missed" in dual


def test_too_many_rows_are_counted_only() -> None:
    text = shown(curves([line("basic", agents, 1) for agents in range(1, MOST_ROWS + 2)]))
    assert text.split() == f"{MOST_ROWS + 1} rows are too many to show here".split()


def test_the_picture_has_a_curve_a_policy_and_says_what_they_are() -> None:
    figure = plot.draw(two_panels())
    rate1, rate2, wait1, wait2 = figure.axes
    assert [axis.get_title() for axis in (rate1, rate2)] == ["1P1D", "2P1D"]
    assert rate1.get_ylabel() == "throughput, turns/s" and wait1.get_ylabel() == "TTFT, s"
    assert wait1.get_xlabel() == wait2.get_xlabel() == "load, agents"
    assert [curve.get_label() for curve in rate2.lines] == ["basic", "dualpath"]
    assert [list(curve.get_ydata()) for curve in rate2.lines] == [[10, 20], [20, 40]]
    assert [curve.get_label() for curve in wait1.lines] == [
        "basic mean", "basic p99", "dualpath mean", "dualpath p99", "SLO",
    ]  # fmt: skip
    assert rate1.get_ylim() == rate2.get_ylim() and rate1.get_ylim()[0] == 0
    colours = {curve.get_color() for curve in rate1.lines}
    assert len(colours) == 2 and colours == {curve.get_color() for curve in rate2.lines}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:3] == [
        "basic", "dualpath", "timing inconclusive",
    ]  # fmt: skip


def test_marks_are_hollow_where_times_are_in_doubt() -> None:
    found = curves([line("basic", 1, 1, timing="inconclusive"), line("basic", 2, 2)])
    marks = plot.draw(found).axes[0].collections[0]
    assert [list(face[:3]) == [1, 1, 1] for face in marks.get_facecolor()] == [True, False]


@pytest.mark.parametrize(("panels", "axes"), [(1, 2), (5, 16), (plot.MOST_PANELS + 3, 48)])
def test_many_panels_wrap_and_more_are_left_out(panels: int, axes: int) -> None:
    found = curves([line("basic", 1, 1, shape=f"{n}P1D") for n in range(panels)])
    figure = plot.draw(found)
    assert len(figure.axes) == axes
    seen = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(seen) == min(panels, plot.MOST_PANELS)


def test_without_matplotlib_it_says_how_to_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(EnvironmentUnfit, match=r"pip install matplotlib"):
        plot.save(two_panels(), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())

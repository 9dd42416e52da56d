"""The picture of traffic isolation: TPOT, collectives and KV, with classes and without."""

from pathlib import Path
from typing import TYPE_CHECKING

from testbed.errors import EnvironmentUnfit
from testbed.results.collectives import SIDES
from testbed.results.schema import PolicyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

# Okabe and Ito's: without KV, with classes, no classes.
COLOURS = ("#999999", "#0072B2", "#D55E00")
SIDE_NAMES = {"pe": "prefill", "de": "decode"}
SIZE_INCHES, DOTS_PER_INCH = (11.5, 3.6), 150
BAND = 0.05
WIDTH = 0.26


def draw(results: dict[str, PolicyResult]) -> "Figure":
    """Four panels, a bar a run; EnvironmentUnfit if matplotlib is not there."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentUnfit(
            "no picture: matplotlib is not installed; pip install matplotlib"
        ) from error
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    tpot, latency, late, kv = figure.subplots(1, 4, width_ratios=(1, 1, 1.4, 1.4))
    bars = _bars(tpot, [result.tpot_s.mean * 1000 for result in results.values()])
    base_ms = float(bars[0].get_height())
    tpot.axhspan(base_ms, base_ms * (1 + BAND), color="black", alpha=0.15, linewidth=0)
    tpot.set_title("TPOT, mean, ms\n(band: +5 %)")
    _bars(latency, [result.collectives["de"].p99_ms for result in results.values()])
    latency.set_title("collectives of decode,\np99, ms here")
    _by_side(late, results, "delayed_share", 100)
    late.set_title("layers that the network\ndelayed, %")
    _by_side(kv, results, "kv_bps", 1e-6)
    kv.set_title("KV beside them,\nMbit/s here")
    figure.legend(*kv.get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False)  # fmt: skip
    return figure


def save(results: dict[str, PolicyResult], path: Path) -> None:
    """Write the picture as PNG."""
    draw(results).savefig(path, dpi=DOTS_PER_INCH)


def _bars(axis: "Axes", heights: list[float]) -> "BarContainer":
    bars = axis.bar(range(len(heights)), heights, color=COLOURS)
    axis.bar_label(bars, fmt="%.1f", fontsize=8)
    axis.set_xticks([])
    axis.margins(y=0.12)
    return bars


def _by_side(axis: "Axes", results: dict[str, PolicyResult], field: str, factor: float) -> None:
    """Groups of bars, a group a side that has collectives."""
    sides = [side for side in SIDES if all(side in r.collectives for r in results.values())]
    for number, (name, result) in enumerate(results.items()):
        places = [at + (number - 1) * WIDTH for at in range(len(sides))]
        heights = [float(getattr(result.collectives[side], field)) * factor for side in sides]
        bars = axis.bar(places, heights, WIDTH, color=COLOURS[number], label=name)
        axis.bar_label(bars, fmt="%.1f", fontsize=8)
    axis.set_xticks(range(len(sides)), [SIDE_NAMES[side] for side in sides])
    axis.margins(y=0.12)

"""The picture of traffic isolation: TPOT, collectives and KV, with classes and without."""

from pathlib import Path
from typing import TYPE_CHECKING

from testbed.errors import EnvironmentUnfit
from testbed.results.collectives import SIDES
from testbed.results.schema import PolicyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's: without KV, with classes, no classes.
COLOURS = ("#999999", "#0072B2", "#D55E00")
SIDE_NAMES = {"pe": "prefill", "de": "decode"}
SIZE_INCHES, DOTS_PER_INCH = (10.5, 3.6), 150
BAND = 0.05
WIDTH = 0.26


def draw(results: dict[str, PolicyResult]) -> "Figure":
    """Three panels, a bar a run; EnvironmentUnfit if matplotlib is not there."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentUnfit(
            "no picture: matplotlib is not installed; pip install matplotlib"
        ) from error
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    tpot, collectives, kv = figure.subplots(1, 3, width_ratios=(1, 1.5, 1.5))
    _tpot(tpot, results)
    _by_side(collectives, results, "p99_ms", 1.0)
    collectives.set_yscale("log")
    collectives.set_title("collectives, p99, ms here")
    _by_side(kv, results, "kv_bps", 1e-6)
    kv.set_title("KV beside them, Mbit/s here")
    figure.legend(*kv.get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False)  # fmt: skip
    return figure


def save(results: dict[str, PolicyResult], path: Path) -> None:
    """Write the picture as PNG."""
    draw(results).savefig(path, dpi=DOTS_PER_INCH)


def _tpot(axis: "Axes", results: dict[str, PolicyResult]) -> None:
    times_ms = [result.tpot_s.mean * 1000 for result in results.values()]
    bars = axis.bar(range(len(times_ms)), times_ms, color=COLOURS)
    axis.bar_label(bars, fmt="%.1f", fontsize=8)
    axis.axhspan(times_ms[0], times_ms[0] * (1 + BAND), color="black", alpha=0.15, linewidth=0)
    axis.set_xticks([])
    axis.set_title("TPOT, mean, ms (band: +5 %)")
    axis.margins(y=0.12)


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

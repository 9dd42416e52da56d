"""The picture of a sweep: throughput and TTFT over the load, a panel a cluster and setting."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.errors import EnvironmentUnfit
from testbed.sweep.curves import Curves, Mark, Panel
from testbed.sweep.play import SLO_TTFT_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, distinct for all kinds of colour vision, but for a yellow too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
Styles = dict[str, tuple[str, str]]  # a policy's colour and marker
ACROSS = 4  # panels in a row
MOST_PANELS = 24
PANEL_INCHES = (3.4, 2.5)
TITLE_COLUMNS = 40
LEGEND_COLUMNS = 2  # above a panel
DOTS_PER_INCH = 150


def draw(found: Curves) -> "Figure":
    """A figure of the first panels; EnvironmentUnfit if matplotlib is not there."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentUnfit(
            "no picture: matplotlib is not installed; pip install matplotlib"
        ) from error
    panels = found.panels[:MOST_PANELS]
    across = min(ACROSS, len(panels))
    bands = -(-len(panels) // across)
    size = (PANEL_INCHES[0] * across + 0.6, PANEL_INCHES[1] * 2 * bands + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2 * bands, across, squeeze=False, sharex=False)
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    styles = {
        name: (COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
        for number, name in enumerate(names)
    }
    for number in range(bands * across):
        band, column = divmod(number, across)
        pair = axes[2 * band][column], axes[2 * band + 1][column]
        if number >= len(panels):
            for axis in pair:
                axis.set_visible(False)
            continue
        _throughput(pair[0], panels[number], styles)
        _ttft(pair[1], panels[number], styles)
        pair[1].set_xlabel(f"load, {found.load}")
        if column == 0:
            pair[0].set_ylabel("throughput, turns/s")
            pair[1].set_ylabel("TTFT, s")
    _same_scales([axes[2 * band][c] for band in range(bands) for c in range(across)])
    _same_scales([axes[2 * band + 1][c] for band in range(bands) for c in range(across)])
    _legend(figure, styles, across)
    return figure


def save(found: Curves, path: Path) -> None:
    """Write the picture as PNG."""
    draw(found).savefig(path, dpi=DOTS_PER_INCH)


def _throughput(axis: "Axes", panel: Panel, styles: Styles) -> None:
    axis.set_title(textwrap.fill(panel.title, TITLE_COLUMNS), fontsize=10)
    for policy, marks in panel.curves.items():
        _curve(axis, marks, "turns_per_s", styles[policy], policy)
        low, high = _of(marks, "lowest_turns_per_s"), _of(marks, "highest_turns_per_s")
        axis.fill_between(
            _of(marks, "load"), low, high, color=styles[policy][0], alpha=0.2, linewidth=0
        )
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)


def _ttft(axis: "Axes", panel: Panel, styles: Styles) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for policy, marks in panel.curves.items():
        _curve(axis, marks, "ttft_mean_s", styles[policy], f"{policy} mean")
        _curve(axis, marks, "ttft_p99_s", styles[policy], f"{policy} p99", "--")
    axis.axhline(SLO_TTFT_S, color="grey", linestyle=":", label="SLO")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)


def _curve(
    axis: "Axes", marks: list[Mark], field: str, style: tuple[str, str], label: str, line: str = "-"
) -> None:
    """A line, and a mark at each load: hollow where a run doubts its own times."""
    colour, marker = style
    loads, values = _of(marks, "load"), _of(marks, field)
    axis.plot(loads, values, color=colour, linestyle=line, label=label)
    faces = [colour if mark.faithful else "white" for mark in marks]
    axis.scatter(loads, values, marker=marker, facecolors=faces, edgecolors=colour, zorder=3)


def _of(marks: list[Mark], field: str) -> list[float]:
    return [float(getattr(mark, field)) for mark in marks]


def _same_scales(axes: "list[Axes]") -> None:
    """One range for all, so that panels compare."""
    ranges = [axis.get_ylim() for axis in axes if axis.get_visible()]
    for axis in axes:
        axis.set_ylim(min(low for low, _ in ranges), max(high for _, high in ranges))


def _legend(figure: "Figure", styles: Styles, across: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, label=name)
        for name, (colour, marker) in styles.items()
    ]
    handles += [
        Line2D(
            [], [], color="black", marker="o", markerfacecolor="white", linestyle="",
            label="timing inconclusive",
        ),
        Line2D([], [], color="black", label="mean"),
        Line2D([], [], color="black", linestyle="--", label="p99"),
        Line2D([], [], color="grey", linestyle=":", label=f"SLO, mean TTFT {SLO_TTFT_S:g} s"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside upper center", ncols=LEGEND_COLUMNS * across, frameon=False,
    )  # fmt: skip

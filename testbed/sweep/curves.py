"""From a table to curves over the load: a panel a cluster and setting, a curve a policy."""

from collections.abc import Sequence
from statistics import fmean, mode
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.results.picture import bar
from testbed.results.verdict import FAITHFUL
from testbed.sweep.play import Measured
from testbed.sweep.table import KEY, Line

CELLS = 10
MOST_ROWS = 60  # on a terminal; more are read in the table
SHOWN = ("turns_per_s", "ttft_mean_s", "ttft_p99_s")
AXES = ("shape", "prefill_nodes", "decode_nodes", "policy", "seed")


class Mark(NamedTuple):
    """One load on a curve: means over seeds, and the least and most throughput among them.

    `slo_ok` if all seeds keep the SLO, `faithful` if all of them trust their times; `binds` is what
    limits most of them.
    """

    load: float
    turns_per_s: float
    lowest_turns_per_s: float
    highest_turns_per_s: float
    ttft_mean_s: float
    ttft_p99_s: float
    slo_ok: bool
    faithful: bool
    binds: str


class Panel(NamedTuple):
    """A cluster and what else was varied, as a title, and each policy's curve."""

    title: str
    curves: dict[str, list[Mark]]


class Curves(NamedTuple):
    """All panels, and what their loads are."""

    load: str
    panels: list[Panel]


def curves(lines: Sequence[Line]) -> Curves:
    """Panels and curves in the order of the table; points without times are left out."""
    load = "aps" if any(line["aps"] is not None for line in lines) else "agents"
    varied = [key for key in _settings(lines, load) if len({str(x[key]) for x in lines}) > 1]
    grouped: dict[str, dict[str, dict[float, list[Line]]]] = {}
    for line in lines:
        if line[load] is None or any(line[field] is None for field in SHOWN):
            continue
        title = ", ".join([line["shape"], *(_said(key, line[key], varied) for key in varied)])
        curve = grouped.setdefault(title, {}).setdefault(line["policy"], {})
        curve.setdefault(line[load], []).append(line)
    panels = [
        Panel(title, {
            policy: [_mark(load, curve[load]) for load in sorted(curve)]
            for policy, curve in policies.items()
        })
        for title, policies in grouped.items()
    ]  # fmt: skip
    return Curves("agents" if load == "agents" else "agents/s", panels)


def _settings(lines: Sequence[Line], load: str) -> list[str]:
    """Keys of the grid's `set`, and agents where the load is their rate."""
    known = {*AXES, "agents", "aps", KEY, *Measured.__struct_fields__}
    more = [key for key in lines[0] if key not in known]
    return [*(["agents"] if load == "aps" else []), *more]


def _said(key: str, value: Any, varied: Sequence[str]) -> str:
    """A setting and its value; of the key only its last word, if no other one has the same."""
    words = [other.rpartition(".")[2] for other in varied]
    word = key.rpartition(".")[2]
    name = word if words.count(word) == 1 else key
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _mark(load: float, lines: Sequence[Line]) -> Mark:
    rates = [line["turns_per_s"] for line in lines]
    return Mark(
        load,
        fmean(rates),
        min(rates),
        max(rates),
        fmean(line["ttft_mean_s"] for line in lines),
        fmean(line["ttft_p99_s"] for line in lines),
        all(line["slo_ok"] for line in lines),
        all(line["timing"] == FAITHFUL for line in lines),
        mode(line["binds"] for line in lines),
    )


def show(found: Curves, console: Console) -> None:
    """The curves as bars and numbers, for a terminal."""
    marks = [mark for panel in found.panels for curve in panel.curves.values() for mark in curve]
    if not marks:
        return
    if len(marks) > MOST_ROWS:
        console.print(f"{len(marks)} rows are too many to show here", highlight=False)
        return
    most = max([1e-9, *(mark.turns_per_s for mark in marks)])
    for panel in found.panels:
        console.print(_panel(panel, found.load, most))
        console.print()


def _panel(panel: Panel, load_head: str, most: float) -> Table:
    table = Table(
        box=None, padding=(0, 1, 0, 0), title=panel.title, title_justify="left",
        title_style="bold",
    )  # fmt: skip
    for head in (load_head, "policy", "turns/s", "TTFT/s", "p99/s", "SLO", "limit"):
        right = head in ("TTFT/s", "p99/s", load_head)
        table.add_column(head, justify="right" if right else "left", no_wrap=True)
    for load in sorted({mark.load for curve in panel.curves.values() for mark in curve}):
        shown = f"{load:g}"
        for policy, curve in panel.curves.items():
            for mark in curve:
                if mark.load == load:
                    table.add_row(shown, policy, *_cells(mark, most))
                    shown = ""
    return table


def _cells(mark: Mark, most: float) -> tuple[Text, str, str, str, str]:
    drawn = bar(mark.turns_per_s / most, "cyan", CELLS)
    drawn.right_crop(5)  # turns/s take the place of the share
    drawn.append(f" {mark.turns_per_s:.1f}{'' if mark.faithful else ' ~'}")
    slo = "kept" if mark.slo_ok else "missed"
    return drawn, f"{mark.ttft_mean_s:.2f}", f"{mark.ttft_p99_s:.2f}", slo, mark.binds

"""What `explain --differing` shows on a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.results.differing import ALIKE, Differing, Placed

NOTE = (
    "Differences are between two runs: a turn's own placement has a part in them, and so has all "
    "that was placed before it."
)


def show(found: Differing, console: Console) -> None:
    """Totals by kind of difference, then the turns that differ most."""
    differ = sum(total.turns for total in found.totals if total.kind != ALIKE)
    head = f"{differ:,} of {found.turns:,} turns placed differently"
    if found.left_out:
        head += f"; {found.left_out:,} more are not done under both"
    console.print(f"{found.second} against {found.first} · {found.run}", style="bold", markup=False)
    console.print(head, highlight=False)
    console.print(_totals(found), highlight=False)
    if found.costly:
        console.print()
        console.print(_turns(found, differ), highlight=False)
    console.print(NOTE, highlight=False)


def _totals(found: Differing) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("differs in")
    for head in ("turns", "TTFT mean, s", "turn JCT mean, s"):
        table.add_column(head, justify="right")
    for total in found.totals:
        kind = "nothing" if total.kind == ALIKE else total.kind
        table.add_row(kind, f"{total.turns:,}", *(_signed(s) for s in (total.ttft_s, total.jct_s)))
    return table


def _turns(found: Differing, differ: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for head in ("request", "turn"):
        table.add_column(head, justify="right")
    for name in (found.first, found.second):
        table.add_column(name)
    for head in ("TTFT, s", "", "turn JCT, s"):
        table.add_column(head, justify="right")
    for number, each in enumerate((*found.costly, *found.gained)):
        if found.gained and number == len(found.costly):
            more = differ - len(found.costly) - len(found.gained)
            table.add_row("…", "", f"{more:,} more")
        table.add_row(
            str(each.request),
            f"{each.agent}.{each.turn}",
            *(_placed(placed) for placed in (each.first, each.second)),
            f"{each.ttft_s[0]:.2f} > {each.ttft_s[1]:.2f}",
            _signed(each.ttft_s[1] - each.ttft_s[0]),
            _signed(each.cost_s),
        )
    return table


def _placed(placed: Placed) -> Text:
    return Text(f"{placed.pe} {placed.de} {placed.read}")


def _signed(seconds: float) -> Text:
    style = "" if abs(seconds) < 0.005 else "red" if seconds > 0 else "green"
    return Text(f"{seconds:+.2f}", style)

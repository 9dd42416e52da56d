"""The picture of lab idle-snic: how far storage NICs were used, and what that gave."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from testbed.labs.idle_snic.checks import BASELINE, REFERENCE
from testbed.labs.idle_snic.drawn import MAIN
from testbed.labs.player import Outcome, Played
from testbed.labs.result import Result
from testbed.results.picture import bar

CELLS = 22


def plot(result: Result) -> RenderableType:
    """Storage NICs and requests a second of the main run, yours beside the reference run's."""
    yours, reference = result.mine[MAIN], result.reference[MAIN]
    assert isinstance(reference, Played)
    nics = _grid("storage NICs", "yours", REFERENCE)
    for node, share in reference.snic.items():
        mine = bar(yours.snic[node], "cyan", CELLS) if isinstance(yours, Played) else Text("no run")
        nics.add_row(f"  {node}", mine, bar(share, "cyan", CELLS))
    rates = _grid("requests/s", "", "")
    runs: dict[str, Outcome] = {
        "yours": yours, REFERENCE: reference, BASELINE: result.reference[BASELINE],
    }  # fmt: skip
    played = {name: run for name, run in runs.items() if isinstance(run, Played)}
    most = max(run.turns_per_s for run in played.values())
    for name, run in played.items():
        drawn = bar(run.turns_per_s / most, "green", CELLS)
        drawn.right_crop(5)  # the share of the longest bar says nothing here
        rates.add_row(f"  {name}", drawn, f"{run.turns_per_s:.1f}")
    return Group(nics, rates)


def _grid(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table

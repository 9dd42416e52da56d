"""`testbed isolation`: what KV does to collectives and decode, with traffic classes and without."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from testbed.cli.options import Asked, exit_code, experiment_options
from testbed.cli.output import print_json
from testbed.cli.progress import Bars
from testbed.errors import EnvironmentUnfit
from testbed.isolation import SUFFERS, VARIANTS, WITHIN, Ratio, play_isolation, ratios
from testbed.policies import choose_one
from testbed.results import isolation_plot
from testbed.results.picture import show
from testbed.results.schema import Comparison
from testbed.session import require_world

PICTURE = "isolation.png"


@click.command("isolation")
@experiment_options(require="functional")
@click.option("--policy", default="dualpath", show_default=True, help="By name, or as FILE:CLASS.")
def command(asked: Asked, policy: str) -> int:
    """Play EXPERIMENT without KV, with traffic classes, and without classes, side by side.

    Arrivals, appended and generated tokens are the same in all three. Needs an engine group that
    spans hosts, fixed turns that arrive at a rate (--aps), and compute NICs that KV congests:
    topologies/isolation.yaml has all of it.
    """
    experiment, _ = asked.load()
    chosen = choose_one(policy)
    require_world(asked.world)
    talk = Console(stderr=True)
    with Bars(list(VARIANTS), talk) as bars:
        comparison = play_isolation(
            experiment, asked.experiment.stem, chosen, asked.runs, bars.tell, asked.world
        )
    talk.print(_picture(comparison), highlight=False, soft_wrap=True, markup=False)
    if asked.as_json:
        print_json(comparison)
    else:
        show(comparison, Console())
        Console().print(_table(ratios(comparison.policies)))
    return exit_code(comparison.verdict, asked.require)


def _picture(comparison: Comparison) -> str:
    path = Path(comparison.folder) / PICTURE
    try:
        isolation_plot.save(comparison.policies, path)
    except EnvironmentUnfit as error:
        return str(error)
    return f"picture: {path}"


def _table(found: tuple[Ratio, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("over the run without KV")
    for head in ("with classes", "no classes"):
        table.add_column(head, justify="right")
    table.add_column("isolation would show as")
    for one in found:
        table.add_row(
            one.what, f"{one.classes:.2f}x", f"{one.no_classes:.2f}x",
            f"at most {1 + WITHIN:g}x, and at least {SUFFERS:g}x",
        )  # fmt: skip
    return table

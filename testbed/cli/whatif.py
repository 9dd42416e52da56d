"""`testbed whatif`: which resource would help, and what would bind then."""

import os
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from testbed.cli.options import load
from testbed.cli.progress import counting
from testbed.errors import InputError
from testbed.policies import choose_one
from testbed.results.picture import bar
from testbed.session import VIRTUAL
from testbed.spec import Experiment
from testbed.whatif import Answer, ask, words
from testbed.workload import build_workload

CELLS = 14
LAYERS = "scale.layers=1"  # throughput is that of any number of layers within 0.1 %
FEWEST_TURNS = 4  # with fewer, a cluster that a doubled resource makes fast is never steady


@click.command("whatif")
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    default="dualpath",
    show_default=True,
    help="A policy, by name or as my_policy.py:MyPolicy.",
)
@click.option("--seed", type=int, help="Seed of the workload.")
@click.option("--workload", help="Kind of workload: fixed, weka or replay.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key.")
@click.option(
    "--processes", type=click.IntRange(1, 256), default=os.cpu_count() or 1, show_default=True,
    help="Variants played at a time.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The answer as JSON.")
def command(
    experiment: Path,
    policy: str,
    seed: int | None,
    workload: str | None,
    settings: tuple[str, ...],
    processes: int,
    as_json: bool,
) -> None:
    """Halve and double each resource of EXPERIMENT, in virtual time, and rank what helps.

    Agents play four turns each if the file gives them fewer, unless you --set workload.turns.
    """
    chosen = choose_one(policy)
    spec, _ = load(experiment, seed, None, workload, (LAYERS, *settings), VIRTUAL)
    if not any(setting.startswith("workload.turns=") for setting in settings):
        spec = _long_enough(spec)
    with counting("variants", Console(stderr=True)) as progress:
        answer = ask(spec, experiment.stem, chosen, progress, processes)
    if as_json:
        click.echo(msgspec.json.encode(answer).decode())
    else:
        show(answer, Console())


def _long_enough(spec: Experiment) -> Experiment:
    """The experiment with turns enough for each agent, if its workload can be so long."""
    turns = spec.workload.turns
    if turns is None or turns >= FEWEST_TURNS:
        return spec
    longer = msgspec.structs.replace(spec.workload, turns=FEWEST_TURNS)
    try:
        build_workload(longer, spec.seed)
    except InputError:
        return spec
    return msgspec.structs.replace(spec, workload=longer)


def show(answer: Answer, console: Console) -> None:
    """Bars of throughput with half and with twice of each resource, over that of the best."""
    gains = [gain for change in answer.changes for gain in (change.half_gain, change.twice_gain)]
    most = max([1.0, *gains])
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("", "half of it", "twice of it", "limit then"):
        table.add_column(head)
    for change in answer.changes:
        pair = (change.half_gain, "red"), (change.twice_gain, "green")
        bars = [bar(gain / most, style, CELLS) for gain, style in pair]
        for drawn, (gain, _) in zip(bars, pair, strict=True):
            drawn.right_crop(5)  # the share of the longest bar says nothing here
            drawn.append(f" {gain:.2f}x")
        table.add_row(change.resource, *bars, change.twice.binds)
    console.print(
        f"{answer.experiment}, {answer.policy}: throughput over today's", style="bold", markup=False
    )
    console.print(table)
    for sentence in words(answer):
        console.print(sentence, highlight=False, markup=False)
